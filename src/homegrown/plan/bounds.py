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

AGAIN, MOVING, EXPERTS = "recomputation", "moving data", "experts"
"""Components of a block's computation."""
ASIDE = (AGAIN, MOVING)
"""Those that are no products or other kernels of the model's own passes."""
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
    """Least seconds of both passes of one micro-batch: of the embedding, a layer of each kind and the end; and of the
    experts' products in each of them."""

    blocks: tuple[float, ...]
    experts: tuple[float, ...]


class Kinds(NamedTuple):
    """Pipeline stages: how often each sort of stage holds the embedding, layers of each kind and the end; and of which
    sort each stage is."""

    blocks: tuple[tuple[float, ...], ...]
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
        for number, layers in enumerate(self._space.shape.layers, start=1):
            if layers.experts is not None and fold.ep > 1 and not self._space.pins.balanced:
                blocks[number] += (imbalance(layers.experts, fold.ep, tokens, skew) - 1.0) * least.experts[number]
        return self._roughly(frame, blocks, fold.dp, fold.batch)

    def _roughly(self, frame: Frame, blocks: Sequence[float], replicas: int, batch: int) -> float:
        """Under 1F1B every stage works through all micro-batches, after those before it; interleaved, the slowest one
        waits for the others, parts by parts (arXiv 2104.04473 section 2.2)."""
        kinds = self._kinds(frame)
        times = [sum(map(mul, counts, blocks)) for counts in kinds.blocks]
        share = 1 / (frame.micro_batch * replicas)
        if frame.schedule == "1f1b":
            stages = [times[kind] for kind in kinds.stages]
            found = max(
                time * share + before / batch for time, before in zip(stages, accumulate([0.0, *stages]), strict=False)
            )
        elif frame.schedule == "interleaved":
            slowest = max(times)
            found = slowest * share + (sum(times[kind] for kind in kinds.stages) - slowest) / frame.parts / batch
        else:
            found = max(times) * share
        return found / self._space.sequence

    def of_fold(self, frame: Frame, fold: Fold) -> float:
        """Seconds of a token that no layout of a frame and a fold goes below: passes, what the pipeline waits, and what
        all wait for the slowest device."""
        key = (frame.tp, frame.cp, frame.micro_batch, fold.ep, fold.etp)
        known = self._folds.get(key)
        if known is None:
            known = self._folds[key] = tuple(map(_passes, self._timed(frame, fold.ep, fold.etp)))
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
        kinds = self._kinds(frame)
        columns = list(zip(*blocks, strict=True))
        times = [Passes(*(sum(map(mul, counts, column)) for column in columns)) for counts in kinds.blocks]
        return [times[kind] for kind in kinds.stages]

    def _least(self, frame: Frame) -> Least:
        key = (frame.tp, frame.cp, frame.micro_batch)
        known = self._frames.get(key)
        if known is not None:
            return known
        everywhere = self._timed(frame, 1, 1)
        spread = [self._timed(frame, ep, etp) for ep, etp in self._space.widest(frame)]
        blocks, experts = [], []
        for number, block in enumerate(everywhere):
            alike = [block, *(other[number] for other in spread)]
            computing = [sum(one.compute[part] for part in one.compute if part not in ASIDE) for one in alike]
            own = block.forward + block.backward - block.compute.get(AGAIN, 0.0)
            blocks.append(own - computing[0] + min(computing))
            experts.append(min(one.compute.get(EXPERTS, 0.0) for one in alike))
        self._frames[key] = Least(tuple(blocks), tuple(experts))
        return self._frames[key]

    def _timed(self, frame: Frame, ep: int, etp: int) -> tuple[BlockTime, ...]:
        """The embedding, a layer of each kind and the end, with n-gram tables everywhere."""
        blocks = self._model.blocks(self._space.alone(frame, ep, etp))
        return (blocks.first, *blocks.layers, blocks.last)

    def _kinds(self, frame: Frame) -> Kinds:
        return _kinds(
            self._space.shape, frame.pp, frame.parts, self._space.sequence, frame.schedule == "dual" and frame.pp > 1
        )


def _passes(block: BlockTime) -> Passes:
    computing = block.forward + block.backward - sum(block.exposed.values())
    return Passes(block.forward, block.backward, block.weights, computing)


@lru_cache(maxsize=4096)
def _kinds(shape: Shape, pp: int, parts: int, sequence: int, mirrored: bool) -> Kinds:
    """Mirrored (DualPipe), half of a device's micro-batches go through the stage of the device opposite."""
    every = all_parts(shape, pp, parts, (), sequence)
    kinds: dict[tuple[float, ...], int] = {}
    stages = []
    for stage in range(pp):
        own = every[stage::pp] + (every[pp - 1 - stage :: pp] if mirrored else ())
        held = [(int(part.first), *part.layers, int(part.last)) for part in own]
        kind = tuple((0.5 if mirrored else 1.0) * sum(column) for column in zip(*held, strict=True))
        stages.append(kinds.setdefault(kind, len(kinds)))
    return Kinds(tuple(kinds), tuple(stages))
