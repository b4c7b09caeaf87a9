"""What no layout can do better than: seconds of a token, bytes of a device. The search skips layouts by these and so
loses nothing.

Bounds of time leave out what a step does once (gradients, the update) and what travels between pipeline stages, and
take the least recomputation and n-gram tables that are everywhere, so that no row travels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from homegrown.plan.enumerate import Fold, Frame, Space
from homegrown.plan.facts import Shape
from homegrown.plan.layout import Layout
from homegrown.plan.parts import all_parts
from homegrown.plan.results import Memory
from homegrown.plan.routing import imbalance, largest_of
from homegrown.plan.schedule import bubble
from homegrown.plan.step import BlockTime, StepModel

AGAIN, EXPERTS, MOVING = "recomputation", "experts", "moving data"
"""Components of a block's computation."""
HELD = ("expert weights", "expert gradients")
"""Components of memory that are shared evenly by the devices that experts are spread over."""

StageNeed = Callable[[Layout], Mapping[int, Memory]]
"""Memory of a device of each pipeline stage that differs from those before it."""


class Passes(NamedTuple):
    """Seconds of a block, or of a stage, for one micro-batch: of both passes, gradients of weights, and computation."""

    forward: float
    backward: float
    weights: float
    computing: float

    @property
    def both(self) -> float:
        """Both passes."""
        return self.forward + self.backward


class Least(NamedTuple):
    """Least seconds, both passes of one micro-batch: of the embedding, a layer of each kind and the end; and of the
    products of experts in each kind of layer."""

    blocks: tuple[float, ...]
    experts: tuple[float, ...]


class Kinds(NamedTuple):
    """Pipeline stages: how often each sort of stage holds the embedding, layers of each kind and the end; and of which
    sort each stage is."""

    blocks: tuple[tuple[int, ...], ...]
    stages: tuple[int, ...]


class Floor(NamedTuple):
    """Bytes that layouts of a frame need at least, by stage: of everything but experts, and of experts on all devices
    together that share them; and how many these are at most."""

    stages: tuple[tuple[float, float], ...]
    widest: int

    def of(self, spread: int) -> float:
        """With experts over so many devices."""
        return max((rest + experts / spread for rest, experts in self.stages), default=0.0)

    @property
    def least(self) -> float:
        """Of all layouts."""
        return self.of(self.widest)


class Bounds:
    """Bounds of the frames of a space, and of their folds."""

    def __init__(self, space: Space, model: StepModel, need: StageNeed) -> None:
        self._space, self._model, self._need = space, model, need
        self._frames: dict[tuple[int, int, int], Least] = {}
        self._folds: dict[tuple[int, int, int, int, int], tuple[Passes, ...]] = {}

    def of_frame(self, frame: Frame) -> float:
        """Seconds of a token that no layout of a frame goes below.

        Experts cost time in three ways. Their products are the quicker the more tokens each gets, so the wider they are
        spread; their traffic, and waiting for the fullest of them, is least where they are not spread at all. So a
        layer takes no less than it does with experts that are everywhere, their products as quick as where they are
        spread most. What schedules wait that fill a pipeline's gaps depends on gradients of experts' weights; of them
        it is only certain here that they do not wait less than not at all.
        """
        return self._roughly(frame, self._least(frame).blocks, self._space.replicas(frame), self._space.most)

    def of_fold_at_least(self, frame: Frame, fold: Fold) -> float:
        """The same of a fold, quickly: with its replicas, and waiting for the fullest of its experts."""
        least = self._least(frame)
        tokens = frame.micro_batch * self._space.sequence / (frame.cp * frame.tp) * fold.ep
        skew, blocks = self._model.constants.skew, list(least.blocks)
        for number, (layers, seconds) in enumerate(zip(self._space.shape.layers, least.experts, strict=True), start=1):
            if layers.experts is not None and fold.ep > 1 and not self._space.pins.balanced:
                blocks[number] += (imbalance(layers.experts, fold.ep, tokens, skew) - 1.0) * seconds
        return self._roughly(frame, blocks, fold.dp, fold.batch)

    def _roughly(self, frame: Frame, blocks: Sequence[float], replicas: int, batch: int) -> float:
        kinds = _kinds(self._space.shape, frame.pp, frame.parts, self._space.sequence)
        times = [sum(map(mul, counts, blocks)) for counts in kinds.blocks]
        every = [times[kind] for kind in kinds.stages]
        if frame.schedule == "dual":
            # A device works on its own stage and on the mirrored one by halves.
            every = [(near + far) / 2.0 for near, far in zip(every, reversed(every), strict=True)]
        slowest, sequences = max(every), frame.micro_batch * replicas
        if frame.schedule == "1f1b":
            # Whatever stages behind one do, micro-batches come and go through those in front of it.
            ahead = [0.0, *accumulate(every[:-1])]
            held_up = (time / sequences + before / batch for time, before in zip(every, ahead, strict=True))
            return max(held_up) / self._space.sequence
        gap = (sum(every) - slowest) / frame.parts if frame.schedule == "interleaved" else 0.0
        return (slowest / sequences + gap / batch) / self._space.sequence

    def of_fold(self, frame: Frame, fold: Fold) -> float:
        """Seconds of a token that no layout of a frame and a fold goes below: passes, what the pipeline waits, and what
        all wait for the slowest device."""
        key = (frame.tp, frame.cp, frame.micro_batch, fold.ep, fold.etp)
        known = self._folds.get(key)
        if known is None:
            blocks = self._model.blocks(self._space.alone(frame, fold.ep, fold.etp))
            known = self._folds[key] = tuple(map(_passes, (blocks.first, *blocks.layers, blocks.last)))
        stages = self._stages(frame, known)
        slowest = max(stages, key=lambda stage: stage.both)
        count = fold.batch // (fold.dp * frame.micro_batch)
        waiting = bubble(
            frame.schedule, frame.parts, count, [stage.forward for stage in stages],
            [stage.backward for stage in stages], [stage.weights for stage in stages],
        )  # fmt: skip
        devices = frame.model * fold.dp
        late = self._model.constants.spread * largest_of(devices) if devices > 1 else 0.0
        seconds = count * slowest.both + waiting + late * (count * slowest.computing + waiting)
        return (seconds + self._model.constants.between) / (fold.batch * self._space.sequence)

    def memory(self, frame: Frame, folds: Sequence[Fold]) -> Floor:
        """Bytes that layouts of a frame need at least.

        Each component of a stage only shrinks with all sizes of a fold, or only grows with them: weights shrink as
        experts and tables are spread further, buffers and the slack of uneven experts grow. So none is below its least
        at the folds where sizes are least and most. Experts' weights are in proportion to how wide they are spread.
        """
        if not folds:
            return Floor((), 1)
        corners = [(layout.ep * layout.etp, self._need(layout)) for layout in self._space.corners(frame, folds)]
        spread, widest = max(corners, key=lambda corner: corner[0])
        stages = []
        for stage, memory in widest.items():
            parts = [found[stage].parts for _, found in corners]
            experts = sum(memory.parts.get(name, 0.0) for name in HELD)
            names = [name for name in memory.parts if name not in HELD]
            stages.append((sum(min(each.get(name, 0.0) for each in parts) for name in names), experts * spread))
        return Floor(tuple(stages), spread)

    def _stages(self, frame: Frame, blocks: tuple[Passes, ...]) -> list[Passes]:
        kinds = _kinds(self._space.shape, frame.pp, frame.parts, self._space.sequence)
        columns = list(zip(*blocks, strict=True))
        times = [Passes(*(sum(map(mul, counts, column)) for column in columns)) for counts in kinds.blocks]
        every = [times[kind] for kind in kinds.stages]
        if frame.schedule != "dual":
            return every
        return [
            Passes(*((near + far) / 2.0 for near, far in zip(*pair, strict=True)))
            for pair in zip(every, every[::-1], strict=True)
        ]

    def _least(self, frame: Frame) -> Least:
        key = (frame.tp, frame.cp, frame.micro_batch)
        known = self._frames.get(key)
        if known is not None:
            return known
        everywhere = self._model.blocks(self._space.alone(frame, 1, 1))
        spread = [self._model.blocks(self._space.alone(frame, ep, etp)) for ep, etp in self._space.widest(frame)]
        blocks, experts = [_without_again(everywhere.first)], []
        for number, block in enumerate(everywhere.layers):
            own = block.compute.get(EXPERTS, 0.0)
            quickest = min([own, *(other.layers[number].compute.get(EXPERTS, 0.0) for other in spread)])
            blocks.append(_without_again(block) - own + quickest)
            experts.append(quickest)
        # The draft head may have experts of its own.
        blocks.append(min(_computing(block.last) for block in (everywhere, *spread)))
        self._frames[key] = Least(tuple(blocks), tuple(experts))
        return self._frames[key]


def _without_again(block: BlockTime) -> float:
    return block.forward + block.backward - block.compute.get(AGAIN, 0.0)


def _passes(block: BlockTime) -> Passes:
    computing = block.forward + block.backward - sum(block.exposed.values())
    return Passes(block.forward, block.backward, block.weights, computing)


@lru_cache(maxsize=4096)
def _kinds(shape: Shape, pp: int, parts: int, sequence: int) -> Kinds:
    every = all_parts(shape, pp, parts, (), sequence)
    kinds: dict[tuple[int, ...], int] = {}
    stages = []
    for stage in range(pp):
        own = every[stage::pp]
        layers = map(sum, zip(*(part.layers for part in own), strict=True))
        kind = (sum(part.first for part in own), *layers, sum(part.last for part in own))
        stages.append(kinds.setdefault(kind, len(kinds)))
    return Kinds(tuple(kinds), tuple(stages))


def _computing(block: BlockTime) -> float:
    """Seconds of a block's computation, nothing of it done again and no traffic beside it."""
    return sum(seconds for part, seconds in block.compute.items() if part not in (AGAIN, MOVING))
