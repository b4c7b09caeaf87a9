"""One incarnation of a run: what its workers say, and what is wrong with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from homegrown.parallel.flightfile import ranks_text
from homegrown.supervise.diagnosis import Hang, Ranking, Slow, find_hang, find_stall
from homegrown.supervise.messages import Beat, Digest, Exited
from homegrown.supervise.roster import Place
from homegrown.supervise.rules import Rules
from homegrown.supervise.wording import strangest


@dataclass(frozen=True)
class Fault:
    """Why an attempt must end.

    Attributes:
        kind: killed, failed, refused (no restart can help), corrupt, hang, stall, slow, host lost.
        culprits: ranks to blame.
        text: a sentence.
        facts: more for the record.
    """

    kind: str
    culprits: tuple[int, ...]
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


class Attempt:
    """Workers that run, as far as they are known.

    Attributes:
        seats: where each rank sits.
        begun: the furthest step begun; -1 before the first.
        exits: workers that ended, in order.
        signal: which one was forwarded, if the workers are to save and end; they have until `deadline`.
        again: another attempt follows then, without the hosts that leave.
    """

    def __init__(self, seats: dict[int, Place], rules: Rules) -> None:
        self.seats = seats
        self.begun = -1
        self.exits: dict[int, Exited] = {}
        self.signal = 0
        self.deadline = math.inf
        self.again = False
        self._rules = rules
        self._ranking = Ranking(len(seats), rules.slow_factor, rules.slow_steps)
        self._digests: dict[int, Digest] = {}
        self._failing: float | None = None

    def beat(self, beat: Beat) -> list[Slow]:
        """Note what an agent says of its workers; the ranks that became known as slow."""
        slow = []
        for digest in beat.digests:
            if digest.rank not in self.exits:
                self._digests[digest.rank] = digest
            self.begun = max(self.begun, digest.step)
            slow += self._ranking.add(digest)
        return slow

    def exited(self, exited: Exited, now: float) -> None:
        """Note that a worker ended."""
        self.begun = max(self.begun, exited.digest.step)
        self.exits[exited.rank] = exited
        self._digests[exited.rank] = msgspec.structs.replace(exited.digest, age=math.inf, waiting=None)  # for ever
        if exited.code != 0 and self._failing is None:
            self._failing = now

    @property
    def first(self) -> int | None:
        """The step from which this attempt trains; None until all ranks have begun one."""
        if len(self._digests) < len(self.seats) or any(digest.step < 0 for digest in self._digests.values()):
            return None
        return min(digest.first for digest in self._digests.values())

    @property
    def ended(self) -> bool:
        """Every worker did."""
        return len(self.exits) == len(self.seats)

    @property
    def failed(self) -> bool:
        """A worker ended otherwise than well."""
        return self._failing is not None

    def fault(self, now: float) -> Fault | None:
        """What is wrong at this moment, if anything is."""
        rules = self._rules
        if self._failing is not None:
            # One death takes others along within moments; they are looked at together.
            settled = self.ended or now - self._failing >= rules.settle
            return Fault(*strangest(self.exits)) if settled else None
        hang = find_hang(self._digests, rules.hang_after, rules.stall_after or math.inf)
        if hang is not None:
            return _hang("hang", hang)
        stall = find_stall(self._digests, rules.stall_after or math.inf)
        return None if stall is None else _hang("stall", stall)


def _hang(kind: str, hang: Hang) -> Fault:
    facts = {
        "collective": hang.op, "group": hang.group, "sequence": hang.sequence,
        "waiting": ranks_text(hang.waiting), "missing": ranks_text(hang.missing),
    }  # fmt: skip
    return Fault(kind, hang.culprits, hang.text, facts)
