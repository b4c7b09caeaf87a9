"""Which tokens the next pass runs: answers first, then prompts, within the time a step may take.

1. Waiting requests are admitted while there are places and pages (`fair` says who is next), some of which are left for
   those that run. One of higher priority takes them from running ones of lower priority. One whose prompt begins like
   one that is being computed waits for that beginning rather than compute it twice.
2. Every running request that answers gets its row, drafts behind it. Where pages run out, running requests make room:
   lowest priority first, of these the newest.
3. Prompts share what is left of the step: the shortest rest first, but every fourth time the one that came first, so
   that a long prompt neither holds up short ones nor starves behind them. Some tokens of a prompt join every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from homegrown.serve.engine.cost import CostModel, Work
from homegrown.serve.engine.fair import FairQueue
from homegrown.serve.engine.memory import KeyMemory
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.sequence import Sequence

SPARE = 2
"""Pages that admission leaves for each running request, lest it has to make room again soon."""
LEAST = 16
"""Tokens of a prompt that join a step, whatever it takes."""
TURN = 4
"""Every so many steps the oldest prompt comes first."""
REPLAY = 16
"""Answered tokens of a request that are computed again in one pass."""

Kind = Literal["prompt", "replay", "answer"]


@dataclass(frozen=True)
class Piece:
    """What a pass runs of one sequence.

    Attributes:
        count: its known tokens from `computed` on; the drafts of an answer come behind them.
        kind: part of a prompt; answered tokens whose keys were dropped, in batch-invariant mode; the newest token.
    """

    sequence: Sequence
    count: int
    kind: Kind

    @property
    def ends(self) -> bool:
        """Whether a new token follows."""
        return self.sequence.computed + self.count == len(self.sequence.tokens)


@dataclass(frozen=True)
class Plan:
    """One pass: its pieces, answers first, and how much work they are."""

    pieces: list[Piece]
    work: Work


class Scheduler:
    """Decides what runs.

    Args:
        options: of the engine.
        memory: the pages.
        drafts: tokens proposed at a time.

    Attributes:
        cost: what steps take; to be told about each.
        queue: requests that wait.
        running: requests that have pages.
        following: requests that have a place, and wait for a running one's prompt.
        preempted: how often a request had to make room.
    """

    def __init__(self, options: EngineOptions, memory: KeyMemory, drafts: int) -> None:
        self.cost = CostModel()
        self.queue = FairQueue()
        self.running: dict[str, Sequence] = {}
        self.following: dict[str, Sequence] = {}
        self.preempted = 0
        self._options, self._memory, self._drafts = options, memory, drafts
        self._steps = 0
        self._refused = ("", -1)  # who was not admitted last, and how many pages there were

    def add(self, sequence: Sequence) -> None:
        """A request wants to run."""
        self.queue.push(sequence)

    def remove(self, sequence: Sequence) -> None:
        """A request has ended, wherever it was: its pages are free."""
        if self.running.pop(sequence.id, None) is None and self.following.pop(sequence.id, None) is None:
            self.queue.remove(sequence)
        self._memory.leave(sequence)
        sequence.phase = "done"

    def schedule(self) -> Plan:
        """What to run next; no pieces if nothing waits."""
        self._steps += 1
        self._admit()
        rows, work = self._rows(), Work()
        for piece in rows:
            tokens = piece.count + len(piece.sequence.drafts)
            work = work.with_rows(tokens, piece.sequence.computed)
        prompts, work = self._prompts(work)
        return Plan(rows + prompts, work)

    def _rows(self) -> list[Piece]:
        rows = []
        for sequence in sorted(self.running.values(), key=_rank):
            if sequence.phase == "running" and not sequence.prefilling and self._make_room(sequence):
                rest = len(sequence.tokens) - sequence.computed
                rows.append(
                    Piece(sequence, 1, "answer") if rest == 1 else Piece(sequence, min(rest - 1, REPLAY), "replay")
                )
        return rows

    def _make_room(self, sequence: Sequence) -> bool:
        """Pages for a sequence's row, taken from others if need be; false if it had to make room itself."""
        wanted = len(sequence.tokens) + len(sequence.drafts) + self._drafts
        while not self._memory.extend(sequence, wanted):
            victim = max(self.running.values(), key=_rank)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: Sequence) -> None:
        del self.running[victim.id]
        self.preempted += 1
        victim.usage.preempted += 1
        victim.phase, victim.drafts = "waiting", []
        if not self._memory.swap_out(victim):
            self._memory.leave(victim)
            victim.forget(self._options.invariant)
        self.queue.put_back(victim)

    def _admit(self) -> None:
        for sequence in [other for other in self.following.values() if not _worth_waiting(other)][::-1]:
            del self.following[sequence.id]
            sequence.leader, sequence.phase = None, "waiting"
            self.queue.put_back(sequence)
        while (first := self.queue.first()) is not None and self._place(first):
            pass

    def _place(self, sequence: Sequence) -> bool:
        """Take the first of the queue in, if there is room or room can be made."""
        refused = (sequence.id, self._memory.available)
        if self.running and refused == self._refused:
            return False  # nothing has changed since
        while len(self.running) + len(self.following) >= self._options.max_running:
            if not self._overrule(sequence):
                return False
        if self._follow(sequence):
            return True
        while not self._memory.enter(sequence, spare=SPARE * len(self.running)):
            if not self._overrule(sequence):
                self._refused = refused
                return False
        self.queue.remove(sequence)
        if not sequence.usage.preempted:
            self.queue.admitted(sequence, sequence.left)
        sequence.phase = "running"
        self.running[sequence.id] = sequence
        return True

    def _overrule(self, sequence: Sequence) -> bool:
        """Preempt a running sequence of lower priority, if there is one."""
        victim = max(self.running.values(), key=_rank, default=None)
        if victim is None or victim.priority >= sequence.priority:
            return False
        self._preempt(victim)
        return True

    def _follow(self, sequence: Sequence) -> bool:
        """Let a sequence wait for the running one that computes most of what its own prompt begins with."""
        if not self._options.prefix_cache or sequence.host is not None:
            return False
        shares = [(self._memory.shared(sequence, other), other) for other in self.running.values() if other.prefilling]
        tokens, leader = max(shares, key=lambda share: share[0], default=(0, None))
        if leader is None or tokens <= leader.computed:
            return False
        self.queue.remove(sequence)
        sequence.leader, sequence.follows, sequence.phase = leader, tokens, "following"
        self.following[sequence.id] = sequence
        return True

    def _prompts(self, work: Work) -> tuple[list[Piece], Work]:
        pieces: list[Piece] = []
        left = self._options.chunk
        for sequence in self._turns():
            count = self._portion(sequence, work, left, first=not pieces)
            if count:
                pieces.append(Piece(sequence, count, "prompt"))
                work = work.with_prompt(count, sequence.computed)
                left -= count
        return pieces, work

    def _turns(self) -> list[Sequence]:
        """Prompts in the order in which they get tokens."""
        prompts = [sequence for sequence in self.running.values() if sequence.prefilling and not sequence.elsewhere]
        prompts.sort(key=lambda sequence: (-sequence.priority, sequence.left, sequence.order))
        if prompts and self._steps % TURN == 0:
            oldest = min(prompts, key=_rank)
            prompts.remove(oldest)
            prompts.insert(0, oldest)
        return prompts

    def _portion(self, sequence: Sequence, work: Work, left: int, first: bool) -> int:
        """Tokens of a prompt that may join some work.

        Args:
            left: tokens that the pass takes yet.
            first: nothing of another prompt has joined, so something must.
        """
        chunk = self._options.chunk
        budget = self._options.step_ms / 1000 if work.rows else float("inf")
        if self._options.invariant:
            whole = min(chunk - sequence.computed % chunk, sequence.left)
            return (
                whole
                if first or self.cost.affordable(work, sequence.computed, budget, min(whole, left)) == whole
                else 0
            )
        most = min(sequence.left, left)
        count = self.cost.affordable(work, sequence.computed, budget, most)
        return max(count, min(LEAST, most)) if first else count


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


def _worth_waiting(sequence: Sequence) -> bool:
    """Whether the one that a sequence follows is still at what both begin with."""
    leader = sequence.leader
    return leader is not None and leader.phase == "running" and leader.computed < sequence.follows
