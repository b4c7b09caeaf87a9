"""The threads that native passes run on: one team a process and number of threads, made when it is first needed."""

from __future__ import annotations

import os
import threading

from homegrown.ops.native.build import library


class Team:
    """Threads that carry out one pass at a time.

    Args:
        threads: how many, the caller among them; results do not depend on it.

    Attributes:
        lock: to be held during a pass.
        at: the address that C knows it by.
    """

    def __init__(self, threads: int) -> None:
        self.lock = threading.Lock()
        self.at = library().team_new(threads)
        if not self.at:
            raise MemoryError("there is no memory for a team of threads")


_teams: dict[int, Team] = {}
_making = threading.Lock()


def team_of(threads: int) -> Team:
    """The process's team of so many threads."""
    team = _teams.get(threads)
    if team is None:
        with _making:
            team = _teams.get(threads) or _teams.setdefault(threads, Team(threads))
    return team


def _forget() -> None:
    """In a forked child: threads are not inherited."""
    global _making
    _teams.clear()
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forget)
