"""What a step takes, learned from steps: seconds = a + b · prompt tokens + c · answering rows + d · attended keys.

A weighted least-squares fit that forgets: recent steps count most, relative errors count equally, and no coefficient is
negative.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import numpy as np

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
        self._gram = _DOUBT * np.eye(4)
        self._moment = _DOUBT * np.ones(4)
        self._fit = [1.0, 1.0, 1.0, 1.0]
        self._seen = 0

    def seconds(self, work: Work) -> float:
        """What a step of such work would take."""
        return sum(map(operator.mul, _features(work), self._fit))

    def observe(self, work: Work, seconds: float) -> None:
        """A step took so long."""
        expected = self.seconds(work)
        if self._seen >= 4:
            seconds = min(seconds, SURPRISE * expected)
        self._seen += 1
        x = np.array(_features(work)) / max(seconds, 1e-6)
        self._gram = KEEP * self._gram + np.outer(x, x) + (1 - KEEP) * _DOUBT * np.eye(4)
        self._moment = KEEP * self._moment + x + (1 - KEEP) * _DOUBT * np.array(self._fit)
        self._fit = _nonnegative(self._gram, self._moment).tolist()

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


def _nonnegative(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """The least-squares solution; coefficients that come out negative are zero, the most negative first."""
    kept = np.ones(len(moment), dtype=bool)
    fit = np.zeros(len(moment))
    while kept.any():
        part = np.linalg.solve(gram[np.ix_(kept, kept)], moment[kept])
        if (part >= 0).all():
            fit[kept] = part
            break
        kept[np.flatnonzero(kept)[part.argmin()]] = False
    return fit
