"""What is done about a rank that computes, keeps or sends wrong bits: it is named, on all ranks, and the run ends."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from homegrown.config import UserError
from homegrown.parallel.collectives import gather_objects
from homegrown.parallel.groups import Group
from homegrown.parallel.verdict import CORRUPT, leave_verdict


class Suspicion(NamedTuple):
    """What speaks against a rank.

    Attributes:
        tensor: where the wrong bits are: a piece of a parameter, a gradient, an op's result.
        what: how they show, to follow the tensor's name.
    """

    tensor: str
    what: str


class CorruptionError(UserError):
    """Silent data corruption; the message names rank, host, check and tensor. All ranks raise it together.

    Attributes:
        step: after which, or in which, it was found.
        check: that found it.
        suspects: the faulty rank; several where the bits cannot tell which of them it is.
        hosts: theirs.
    """

    exit_code = CORRUPT

    def __init__(self, step: int, check: str, suspects: Mapping[int, Suspicion], hosts: Mapping[int, str]) -> None:
        self.step, self.check, self.suspects, self.hosts = step, check, dict(suspects), dict(hosts)
        named = "; ".join(f"rank {rank} on {hosts[rank]}: {self.sentence(rank)}" for rank in sorted(suspects))
        which = "" if len(suspects) == 1 else "one of these ranks computes wrongly, their bits cannot tell which: "
        super().__init__(f"silent data corruption at step {step} ({check}): {which}{named}")

    def sentence(self, rank: int) -> str:
        """What speaks against a rank."""
        suspicion = self.suspects[rank]
        return f"{suspicion.tensor} {suspicion.what}"


def accuse(step: int, check: str, suspects: Mapping[int, Suspicion], world: Group) -> None:
    """Raise for these ranks; nothing happens if there are none. All ranks call this with the same ranks.

    Raises:
        CorruptionError: there are suspects.
    """
    if suspects:
        names = gather_objects(socket.gethostname(), world)
        raise CorruptionError(step, check, suspects, {rank: names[rank] for rank in suspects})


def leave_verdicts(run: Path, error: CorruptionError, world: Group) -> None:
    """Leave a note for the supervisor about each suspect: RUN/faults/verdict-rank-N.json.

    The first rank that is not suspected writes them; the first of all if everyone is.
    """
    writer = next((rank for rank in world.ranks if rank not in error.suspects), world.ranks[0])
    if world.ranks[world.rank] == writer:
        for rank in error.suspects:
            leave_verdict(run, rank, writer, f"step {error.step}, {error.check}: {error.sentence(rank)}")
