"""Who is next: by priority, then those who had to make room, then whoever's tenant has had least.

Tenants have virtual token counters (Sheng et al., Fairness in Serving Large Language Models, arXiv 2401.00588): what
was computed for a tenant is counted, and the waiting tenant with the lowest count is next. A tenant that had nothing
waiting is lifted to the lowest count among those that have, so that idle time saves nothing up.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from homegrown.serve.engine.sequence import Sequence

OUTPUT_WEIGHT = 2.0
"""What a token of an answer counts; one of a prompt counts 1 (section 3.1 of the paper)."""
FORGET = 1024
"""Tenants whom nobody would notice to be forgotten are, once there are more than so many."""


class Counters:
    """What each tenant has had, in weighted tokens."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._floor = 0.0
        self._many = FORGET

    def __getitem__(self, tenant: str) -> float:
        return self._had.get(tenant, self._floor)

    def charge(self, tenant: str, tokens: float) -> None:
        """A tenant has had so much more."""
        self._had[tenant] = self[tenant] + tokens

    def lift(self, tenant: str, lowest: float | None) -> None:
        """A tenant that had nothing waiting has something; `lowest`: the lowest count among those that had."""
        self._had[tenant] = max(self[tenant], self._floor if lowest is None else lowest)

    def chosen(self, tenant: str) -> None:
        """A tenant was next, having had least: who comes later starts no lower."""
        self._floor = max(self._floor, self[tenant])
        if len(self._had) > self._many:
            self._had = {name: had for name, had in self._had.items() if had > self._floor}
            self._many = max(FORGET, 2 * len(self._had))


class Level:
    """The waiting requests of one priority."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._returning: OrderedDict[str, Sequence] = OrderedDict()
        self._tenants: dict[str, OrderedDict[str, Sequence]] = {}
        self._heap: list[tuple[float, str]] = []  # counts as they were, of those that wait and some that do not
        self._listed: set[str] = set()  # who is in the heap

    def __bool__(self) -> bool:
        return bool(self._returning or self._tenants)

    def lowest(self) -> float | None:
        """The lowest count among tenants that wait."""
        tenant = self._least()
        return None if tenant is None else self._counters[tenant]

    def waits(self, tenant: str) -> bool:
        """Whether a tenant has something waiting here."""
        return tenant in self._tenants

    def push(self, sequence: Sequence) -> None:
        """Behind the others of its tenant."""
        queue = self._tenants.get(sequence.tenant)
        if queue is None:
            queue = self._tenants[sequence.tenant] = OrderedDict()
            if sequence.tenant not in self._listed:
                self._listed.add(sequence.tenant)
                heapq.heappush(self._heap, (self._counters[sequence.tenant], sequence.tenant))
        queue[sequence.id] = sequence

    def put_back(self, sequence: Sequence) -> None:
        """Before all others."""
        self._returning[sequence.id] = sequence
        self._returning.move_to_end(sequence.id, last=False)

    def first(self) -> Sequence | None:
        """Who is next."""
        if self._returning:
            return next(iter(self._returning.values()))
        tenant = self._least()
        return None if tenant is None else next(iter(self._tenants[tenant].values()))

    def remove(self, sequence: Sequence) -> None:
        """It waits no longer."""
        if self._returning.pop(sequence.id, None) is None:
            queue = self._tenants[sequence.tenant]
            del queue[sequence.id]
            if not queue:
                del self._tenants[sequence.tenant]

    def _least(self) -> str | None:
        """The waiting tenant that has had least. Counts only grow, so a count in the heap is the true one or too low:
        whoever is on top with its true count is the least."""
        while self._heap:
            noted, tenant = self._heap[0]
            true = self._counters[tenant]
            if tenant not in self._tenants:
                heapq.heappop(self._heap)
                self._listed.discard(tenant)
            elif noted < true:
                heapq.heapreplace(self._heap, (true, tenant))
            else:
                return tenant
        return None


class FairQueue:
    """All waiting requests. Every operation costs O(log n) at most, however many wait."""

    def __init__(self) -> None:
        self._counters = Counters()
        self._levels: dict[int, Level] = {}
        self._counted: dict[str, int] = {}  # of each that waits, what it adds to `tokens`
        self.tokens = 0
        """Prompt tokens that wait to be computed."""

    def __len__(self) -> int:
        return len(self._counted)

    def push(self, sequence: Sequence) -> None:
        """A new request waits."""
        if not any(level.waits(sequence.tenant) for level in self._levels.values()):
            counts = [count for level in self._levels.values() if (count := level.lowest()) is not None]
            self._counters.lift(sequence.tenant, min(counts, default=None))
        self._level(sequence).push(sequence)
        self._count(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """One that had run waits again, before all others of its priority."""
        self._level(sequence).put_back(sequence)
        self._count(sequence)

    def first(self) -> Sequence | None:
        """Who is next; it stays where it is."""
        return self._levels[max(self._levels)].first() if self._levels else None

    def remove(self, sequence: Sequence) -> None:
        """It waits no longer: it was admitted, or it has ended."""
        level = self._levels[sequence.priority]
        level.remove(sequence)
        if not level:
            del self._levels[sequence.priority]
        self.tokens -= self._counted.pop(sequence.id)

    def admitted(self, sequence: Sequence, tokens: int) -> None:
        """The first of the queue has left it to have so many prompt tokens computed."""
        self._counters.chosen(sequence.tenant)
        self._counters.charge(sequence.tenant, tokens)

    def answered(self, sequence: Sequence, tokens: int) -> None:
        """So many tokens of its answer were made."""
        self._counters.charge(sequence.tenant, OUTPUT_WEIGHT * tokens)

    def _level(self, sequence: Sequence) -> Level:
        level = self._levels.get(sequence.priority)
        if level is None:
            level = self._levels[sequence.priority] = Level(self._counters)
        return level

    def _count(self, sequence: Sequence) -> None:
        self._counted[sequence.id] = sequence.left
        self.tokens += sequence.left
