"""What a step takes, learned from steps: seconds = a + b · prompt tokens + c · answering rows + d · attended keys.

A weighted least-squares fit that forgets: recent steps count most, relative errors count equally, and no coefficient is
negative.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

KEEP = 0.95
"""What the past counts after each further step: some twenty steps are remembered."""
SURPRISE = 4.0
"""A step that took more than so many times what was expected (a first call of a kernel, a machine that was busy) counts
as if it had taken only that much."""
_UNITS = (1e-3, 1e-4, 1e-3, 1e-8)
"""Seconds that a, b, c and d are thought to be before anything was seen, and with next to no weight."""
_DOUBT = 1e-4


class Work(NamedTuple):
    """What a step computes.

    Attributes:
        prefill: tokens of prompts.
        rows: tokens of answers, drafts included.
        keys: keys that each of these attends to, summed over all.
    """

    prefill: int = 0
    rows: int = 0
    keys: int = 0

    def with_prompt(self, tokens: int, past: int) -> Work:
        """And so many more tokens of a prompt, behind `past` earlier ones."""
        return Work(self.prefill + tokens, self.rows, self.keys + attended(tokens, past))

    def with_rows(self, tokens: int, past: int) -> Work:
        """And so many more tokens of an answer, behind `past` earlier ones."""
        return Work(self.prefill, self.rows + tokens, self.keys + attended(tokens, past))


def attended(tokens: int, past: int) -> int:
    """Keys that consecutive tokens see, summed over them."""
    return tokens * past + tokens * (tokens + 1) // 2


class CostModel:
    """Predicts steps."""

    def __init__(self) -> None:
        # In units of `_UNITS` the four coefficients are of order one, so that one doubt fits all.
        self._gram = [[_DOUBT * (row == column) for column in range(4)] for row in range(4)]
        self._moment = [_DOUBT] * 4
        self._fit = [1.0] * 4
        self._seen = 0

    def seconds(self, work: Work) -> float:
        """What a step of such work would take."""
        return sum(map(operator.mul, _features(work), self._fit))

    def observe(self, work: Work, seconds: float) -> None:
        """A step took so long."""
        if self._seen >= 4:
            seconds = min(seconds, SURPRISE * self.seconds(work))
        self._seen += 1
        x = [feature / max(seconds, 1e-6) for feature in _features(work)]
        for row in range(4):
            for column in range(4):
                self._gram[row][column] = KEEP * self._gram[row][column] + x[row] * x[column]
            # What recent steps say nothing about stays as it was.
            self._gram[row][row] += (1 - KEEP) * _DOUBT
            self._moment[row] = KEEP * self._moment[row] + x[row] + (1 - KEEP) * _DOUBT * self._fit[row]
        self._fit = _nonnegative(self._gram, self._moment)

    def affordable(self, work: Work, past: int, budget: float, most: int) -> int:
        """How many prompt tokens behind `past` earlier ones may join some work within a budget of seconds, at most
        `most`."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds(work.with_prompt(middle, past)) <= budget:
                low = middle
            else:
                high = middle - 1
        return low


def _features(work: Work) -> tuple[float, float, float, float]:
    one, token, row, key = _UNITS
    return one, token * work.prefill, row * work.rows, key * work.keys


def _nonnegative(gram: list[list[float]], moment: list[float]) -> list[float]:
    """The least-squares solution; coefficients that come out negative are zero, the most negative first."""
    kept = list(range(len(moment)))
    fit = [0.0] * len(moment)
    while kept:
        part = _solve([[gram[row][column] for column in kept] for row in kept], [moment[row] for row in kept])
        least = min(range(len(kept)), key=part.__getitem__)
        if part[least] >= 0:
            for place, value in zip(kept, part, strict=True):
                fit[place] = value
            break
        del kept[least]
    return fit


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x of A x = b by elimination, for a small positive definite A, which needs no pivoting."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for place, pivot in enumerate(rows):
        for below in rows[place + 1 :]:
            factor = below[place] / pivot[place]
            for column in range(place, len(pivot)):
                below[column] -= factor * pivot[column]
    solution = [0.0] * len(rows)
    for place in reversed(range(len(rows))):
        known = sum(rows[place][column] * solution[column] for column in range(place + 1, len(rows)))
        solution[place] = (rows[place][-1] - known) / rows[place][place]
    return solution
