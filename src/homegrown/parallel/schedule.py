"""Pipeline schedules as data: which stage does what, in which order, and what travels between stages.

Part n of the model lives on stage n mod P, as `Layout.all_parts` has it. One part a stage gives 1F1B
(arXiv 1806.03377, 2104.04473 section 2.2.1), several give its interleaved form (section 2.2.2). Every part goes
through the micro-batches in order 0, 1, ..., forward and backward alike, so that sums over micro-batches are formed in
the order in which one process would form them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from homegrown.config import UserError

FORWARD, BACKWARD = "forward", "backward"


class ScheduleError(UserError):
    """A schedule that cannot be made or carried out; the message says why."""


class Act(NamedTuple):
    """One part's forward or backward pass on one micro-batch."""

    kind: str
    part: int
    micro: int

    def __str__(self) -> str:
        return f"the {self.kind} pass of part {self.part} on micro-batch {self.micro}"


class Move(NamedTuple):
    """What an act made goes to the stage that goes on with it: a hidden state, or the gradient of one."""

    made_by: Act
    source: int
    target: int


Exchange = tuple[Move, ...]
"""What two stages send each other at a time: one move, or one each way. Both start it as a whole."""


class Step(NamedTuple):
    """What a stage does next: it starts these exchanges, then does an act (none at the very end)."""

    exchanges: tuple[Exchange, ...]
    act: Act | None


Order = tuple[Act, ...]
"""The acts of one stage."""


class Slot(NamedTuple):
    """An act and when it ran."""

    act: Act
    start: float
    stop: float


@dataclass(frozen=True)
class Timeline:
    """A schedule that has been played through.

    Attributes:
        stages: what each stage did, in order.
        parts: pipeline parts of a stage.
    """

    stages: tuple[tuple[Slot, ...], ...]
    parts: int

    @property
    def duration(self) -> float:
        """When the last stage was done."""
        return max((slot.stop for slots in self.stages for slot in slots), default=0.0)

    @property
    def bubble(self) -> float:
        """Share of all stages' time in which they did nothing."""
        busy = sum(slot.stop - slot.start for slots in self.stages for slot in slots)
        return 1.0 - busy / (self.duration * len(self.stages))

    def in_flight(self, stage: int) -> int:
        """Most passes whose activations a stage kept at a time."""
        kept = most = 0
        for slot in self.stages[stage]:
            kept += 1 if slot.act.kind == FORWARD else -1
            most = max(most, kept)
        return most


def training_order(stage: int, stages: int, parts: int, micros: int) -> Order:
    """The acts of a stage in a training step: forward passes until the first gradient can arrive, then one backward
    pass for each forward pass, then the backward passes that are left.

    Raises:
        ScheduleError: several parts a stage, and the number of micro-batches is no multiple of the stages.
    """
    if parts > 1 and micros % stages:
        raise ScheduleError(
            f"{micros} micro-batches: an interleaved pipeline ({parts} parts a stage) needs a multiple of its "
            f"{stages} stages"
        )
    forward = forward_order(stage, stages, parts, micros)
    last = stages * parts - 1
    # The stages' mirror image: the last part comes first, and a stage's parts are the last one's minus its own.
    mirrored = forward_order(stages - 1 - stage, stages, parts, micros)
    backward = [Act(BACKWARD, last - act.part, act.micro) for act in mirrored]
    ahead = stages - 1 - stage if parts == 1 else 2 * (stages - 1 - stage) + (parts - 1) * stages
    ahead = min(ahead, len(forward))
    order = list(forward[:ahead])
    for pair in zip(forward[ahead:], backward, strict=False):
        order += pair
    return (*order, *backward[len(forward) - ahead :])


def forward_order(stage: int, stages: int, parts: int, micros: int) -> Order:
    """The acts of a stage where there is no backward pass: its parts take turns, `stages` micro-batches at a time."""
    groups = [range(start, min(start + stages, micros)) for start in range(0, micros, stages)]
    own = range(stage, stages * parts, stages)
    return tuple(Act(FORWARD, part, micro) for group in groups for part in own for micro in group)


def needs(act: Act, last: int) -> list[Act]:
    """The acts that must come before this one, of a model whose last part has number `last`."""
    if act.kind == FORWARD:
        return [act._replace(part=act.part - 1)] if act.part else []
    before = [Act(FORWARD, act.part, act.micro)]
    return before if act.part == last else [*before, act._replace(part=act.part + 1)]


def feeds(act: Act, last: int) -> int | None:
    """The part that goes on with what an act made; `None` where nothing follows."""
    if act.kind == FORWARD:
        return act.part + 1 if act.part < last else None
    return act.part - 1 if act.part else None


def simulate(orders: Sequence[Order], parts: int, seconds: Callable[[Act], float], transfer: float = 0.0) -> Timeline:
    """Play a schedule through: each stage does its acts in order, each as soon as what it needs has arrived.

    Args:
        orders: every stage's acts.
        parts: pipeline parts of a stage.
        seconds: how long an act takes.
        transfer: how long what it made is on its way to another stage.

    Raises:
        ScheduleError: some stage waits for ever; the message says for what.
    """
    stages, last = len(orders), len(orders) * parts - 1
    done: dict[Act, float] = {}
    slots: list[list[Slot]] = [[] for _ in orders]
    moving = True
    while moving:
        moving = False
        for stage, order in enumerate(orders):
            # Each stage as far as it gets: when an act starts does not depend on the order in which stages are visited.
            for act in order[len(slots[stage]) :]:
                wanted = needs(act, last)
                if not all(other in done for other in wanted):
                    break
                came = [done[other] + transfer * (other.part % stages != stage) for other in wanted]
                start = max([slots[stage][-1].stop if slots[stage] else 0.0, *came])
                done[act] = start + seconds(act)
                slots[stage].append(Slot(act, start, done[act]))
                moving = True
    stuck = [stage for stage, order in enumerate(orders) if len(slots[stage]) < len(order)]
    if stuck:
        where = ", ".join(f"stage {stage} at {orders[stage][len(slots[stage])]}" for stage in stuck)
        raise ScheduleError(f"the schedule comes to a standstill: {where}")
    return Timeline(tuple(map(tuple, slots)), parts)


def nominal(act: Act) -> float:
    """Seconds by which programs are laid out: a backward pass takes twice as long as a forward pass."""
    return 1.0 if act.kind == FORWARD else 2.0


@cache
def programs(stages: int, parts: int, micros: int, training: bool = True) -> tuple[tuple[Step, ...], ...]:
    """What every stage does, transfers included.

    All acts and exchanges are put in one line, in the order in which they end in a simulation; a stage's program is
    the part of the line that it takes part in. The first exchange of the line that is not done yet can therefore
    always be done, since both its stages have come to it: no program can stop, even if every exchange blocked both
    its ends until it was done. A receiving stage starts an exchange before the act it is in while the sender becomes
    ready, so that tensors travel while it computes.

    Raises:
        ScheduleError: see `training_order`.
    """
    make = training_order if training else forward_order
    timeline = simulate([make(stage, stages, parts, micros) for stage in range(stages)], parts, nominal)
    line: list[tuple[float, int, tuple[int, ...], Act | Exchange]] = []
    made: dict[tuple[float, tuple[int, ...]], list[Move]] = defaultdict(list)
    for stage, slots in enumerate(timeline.stages):
        for act, _, stop in slots:
            line.append((stop, 0, (stage,), act))
            following = feeds(act, stages * parts - 1)
            if following is not None and following % stages != stage:
                ends = tuple(sorted((stage, following % stages)))
                made[stop, ends].append(Move(act, stage, following % stages))
    line += [(stop, 1, ends, tuple(moves)) for (stop, ends), moves in made.items()]

    steps: list[list[Step]] = [[] for _ in range(stages)]
    due: list[list[Exchange]] = [[] for _ in range(stages)]
    for _, _, ends, event in sorted(line):
        for stage in ends:
            if isinstance(event, Act):
                steps[stage].append(Step(tuple(due[stage]), event))
                due[stage] = []
            else:
                due[stage].append(event)
    return tuple((*steps[stage], *([Step(tuple(due[stage]), None)] if due[stage] else [])) for stage in range(stages))
