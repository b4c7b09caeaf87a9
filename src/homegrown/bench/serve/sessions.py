"""A load's sessions: what each of them says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from homegrown.bench.serve.lengths import Lengths
from homegrown.bench.serve.load import Load
from homegrown.bench.serve.words import Words

FIRST, HIT, COLD, LONG = "first", "hit", "cold", "long"
"""Groups: a shared prefix's first use, later uses, prompts whose prefix is their own, the long prompt."""


@dataclass(frozen=True)
class Turn:
    """What a session adds before a request: text of so many tokens, and how long the answer is to be."""

    text: str
    tokens: int
    output: int


@dataclass(frozen=True)
class Session:
    """A request, or several that build on each other.

    Attributes:
        number: counted from 0, in order of arrival.
        group: figures are made for each.
        prefix: opens the first prompt.
        turns: at least one.
    """

    number: int
    group: str
    prefix: str
    turns: tuple[Turn, ...]


class Sessions:
    """Makes the sessions of one run of a load. The same run has the same ones whatever the server.

    Args:
        load: what is wanted.
        words: to make texts of.
        run: of several runs of a load: each has texts of its own, so that none finds the prompts of another in a cache.
    """

    def __init__(self, load: Load, words: Words, run: int = 0) -> None:
        self._load, self._words = load, words
        self._rng = random.Random(f"{load.seed}/{run}")
        self._prefixes = [words.text(load.prefix, self._rng) for _ in range(load.prefixes)]
        self._input, self._output, self._tool = (load.lengths(name) for name in ("input", "output", "tool"))
        self._turns: Lengths = load.lengths("turns")

    def planned(self) -> list[Session]:
        """All of them, in order of arrival; not the first uses of prefixes, and not the long one."""
        made: list[Session] = []
        for number in range(self._load.requests):
            made.append(self._session(len(made), number, HIT if self._prefixes else ""))
            if self._load.cold:
                made.append(self._session(len(made), number, COLD))
        return made

    def endless(self) -> Iterator[Session]:
        """As many as are asked for."""
        number = 0
        while True:
            yield self._session(number, number, "")
            number += 1

    def firsts(self) -> list[Session]:
        """One session for each prefix, which has nothing else."""
        return [Session(-1 - number, FIRST, prefix, (Turn("", 0, 1),)) for number, prefix in enumerate(self._prefixes)]

    def long(self) -> Session:
        """The one with the long prompt."""
        turn = Turn(self._words.text(self._load.long, self._rng), self._load.long, self._output.draw(self._rng, 0))
        return Session(-1, LONG, "", (turn,))

    def _session(self, number: int, draw: int, group: str) -> Session:
        rng, load = self._rng, self._load
        prefix = ""
        if group == HIT:
            prefix = self._prefixes[draw % len(self._prefixes)]
        elif group == COLD:
            prefix = self._words.text(load.prefix, rng)
        turns = []
        for turn in range(self._turns.draw(rng, draw)):
            tokens = self._tool.draw(rng, draw + turn) if turn else self._input.draw(rng, draw)
            turns.append(Turn(self._words.text(tokens, rng), tokens, self._output.draw(rng, draw + turn)))
        return Session(number, group, prefix, tuple(turns))
