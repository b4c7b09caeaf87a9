"""What the supervisor goes by, and what it decides: plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from homegrown.config import require
from homegrown.supervise.messages import Order


def any_size(world: int) -> bool:
    """Every number of workers will do."""
    return True


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Limits and times of a supervised run; times are seconds.

    Attributes:
        workers: workers wanted, over all hosts.
        min_workers: go on with fewer, down to this many, when there is no spare left.
        fits: whether a run of so many workers is possible at all.
        hosts: agents that must have joined before the run begins.
        home: the controller's own host; it tips the scale when exactly half of the agents are left.
        hang_after: a rank waits this long in a collective, and no member of it has moved for as long.
        stall_after: a rank may take this long over something else than a step (loading, say) while others wait for it;
            and no rank at all may stand still for longer. 0: for ever.
        slow_factor, slow_steps: report a rank that takes this many times the others' median outside collectives, in
            this many steps in a row.
        cordon_slow: replace a rank that is slower than this factor; 0 never.
        strikes: times a slot may lose its worker to a signal before it is cordoned.
        cordons: times a slot may be cordoned before it is out for good.
        max_restarts: restarts in a row without a step beyond the furthest one reached.
        backoff, backoff_limit: pause before the first restart, doubled for each further one without such a step.
        lease: an agent that cannot reach the controller for this long ends its workers.
        patience: how long to wait for lost hosts before going on with fewer workers.
        settle: time in which the deaths that one failure causes are taken together.
        grace: time that workers have to save and end when the run is to stop.
    """

    workers: int
    min_workers: int = 0
    fits: Callable[[int], bool] = any_size
    hosts: int = 1
    home: str = ""
    hang_after: float = 300.0
    stall_after: float = 1800.0
    slow_factor: float = 1.5
    slow_steps: int = 5
    cordon_slow: float = 0.0
    strikes: int = 2
    cordons: int = 3
    max_restarts: int = 10
    backoff: float = 1.0
    backoff_limit: float = 60.0
    lease: float = 15.0
    patience: float = 15.0
    settle: float = 0.5
    grace: float = 300.0

    def __post_init__(self) -> None:
        require(self.workers >= 1, f"workers = {self.workers}: must be at least 1")
        require(
            0 <= self.min_workers <= self.workers,
            f"min-workers = {self.min_workers}: must lie between 1 and workers = {self.workers}, or be 0 for all",
        )
        require(self.lease >= 1, f"lease = {self.lease}: must be at least 1 second")
        require(self.hang_after > 0, f"hang-after = {self.hang_after}: must be more than 0 seconds")
        require(
            self.cordon_slow == 0 or self.cordon_slow >= self.slow_factor > 1,
            f"cordon-slow = {self.cordon_slow}: must be 0 (never) or at least slow-factor = {self.slow_factor}",
        )

    @property
    def fewest(self) -> int:
        """Workers the run can do with."""
        return self.min_workers or self.workers


@dataclass(frozen=True)
class Send:
    """An order for a host."""

    host: str
    order: Order


@dataclass(frozen=True)
class Drop:
    """Hang up on a host: if its agent lives it comes back, beginning with `Hello`."""

    host: str


@dataclass(frozen=True)
class Note:
    """A line of the record: what happened or was decided, in a sentence and as facts."""

    event: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Over:
    """The run has ended, with this exit status and for this reason."""

    status: int
    reason: str


Decision = Send | Drop | Note | Over
