"""What no layout of a frame can do better than: seconds of a token, bytes of a device. The search skips frames by these
and so loses nothing.

There are two bounds of time. The first knows only the model's operations and the chip's best rate, and costs next to
nothing. The second times the layers as cut by a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from homegrown.plan.enumerate import Frame, Space
from homegrown.plan.facts import Machine, Shape
from homegrown.plan.layout import Layout
from homegrown.plan.parts import Part, all_parts
from homegrown.plan.results import Memory
from homegrown.plan.step import StepModel
from homegrown.plan.work import draft_work, layer_work

AGAIN, EXPERTS = "recomputation", "experts"
"""Components of a block's computation."""
FILLED = ("zero-bubble", "dual")
"""Schedules that fill the gaps of a pipeline with other work: of the waiting for it nothing is certain."""


def ideal_pace(space: Space, frame: Frame, machine: Machine) -> float:
    """Seconds of a token if all that multiplies did so at the best rate that large products reach, nothing else took
    any time, and all replicas were there that there can be.

    The slowest stage computes every micro-batch, and waits for the others to fill and to empty the pipeline: their work
    for one micro-batch, shared by the parts when interleaved (arXiv 2104.04473 section 2.2).
    """
    slowest, others = _stage_work(space.shape, frame.pp, frame.parts, space.sequence)
    passes = 4 if space.pins.recompute == "full" else 3
    each = passes / (max(machine.products.values()) * frame.tp * frame.cp)
    return _pace(space, frame, each * slowest, each * others)


def _pace(space: Space, frame: Frame, slowest: float, others: float) -> float:
    """Seconds of a token from those that the stages take for one: each replica has its own, and fills its pipeline once
    for all tokens of a step."""
    gap = 0.0 if frame.schedule in FILLED else others / frame.parts * frame.micro_batch / space.most
    return slowest / space.replicas(frame) + gap


class Bounds:
    """Bounds of the frames of a space by timing layers.

    Experts cost time in three ways. Their products are the quicker the more tokens each gets, so the wider they are
    spread; their traffic, and waiting for the fullest of them, is least where they are not spread at all. So a layer
    takes no less than it does with experts that are everywhere, their products as quick as where they are spread most.
    N-gram rows travel least, too, where the tables are everywhere. Whatever is done again comes on top.
    """

    def __init__(self, space: Space, model: StepModel, need: Callable[[Layout], Memory]) -> None:
        self._space, self._model, self._need = space, model, need
        self._known: dict[tuple[int, int, int], tuple[float, ...]] = {}

    def pace(self, frame: Frame) -> float:
        """Seconds of a token that no layout of a frame goes below."""
        space = self._space
        blocks = self._blocks(frame)
        every = [_time(blocks, part) for part in all_parts(space.shape, frame.pp, frame.parts, (), space.sequence)]
        stages = [sum(every[stage :: frame.pp]) for stage in range(frame.pp)]
        tokens = frame.micro_batch * space.sequence
        slowest = max(stages)
        return _pace(space, frame, slowest / tokens, (sum(stages) - slowest) / tokens)

    def memory(self, frame: Frame) -> float:
        """Bytes that every layout of a frame needs on its fullest device.

        Each component only shrinks with all sizes of a fold, or only grows with them: weights shrink as experts and
        tables are spread further, buffers and the slack of uneven experts grow. So none is below its least at the
        folds where sizes are least and most.
        """
        corners = [self._need(layout).parts for layout in self._space.corners(frame)]
        if not corners:
            return 0.0
        return sum(min(parts.get(name, 0.0) for parts in corners) for name in corners[0])

    def _blocks(self, frame: Frame) -> tuple[float, ...]:
        """Least seconds of the embedding, of a layer of each kind, and of the end, for one micro-batch."""
        key = (frame.tp, frame.cp, frame.micro_batch)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._timed(frame)
        return known

    def _timed(self, frame: Frame) -> tuple[float, ...]:
        everywhere = self._model.blocks(self._space.alone(frame, 1, 1))
        spread = [self._model.blocks(self._space.alone(frame, ep, etp)) for ep, etp in self._space.widest(frame)]
        least = []
        for number, block in enumerate((everywhere.first, *everywhere.layers, everywhere.last)):
            kept = block.forward + block.backward - block.compute.get(AGAIN, 0.0)
            if 0 < number <= len(everywhere.layers) and EXPERTS in block.compute:
                quickest = min(other.layers[number - 1].compute[EXPERTS] for other in spread)
                kept -= max(block.compute[EXPERTS] - quickest, 0.0)
            least.append(kept)
        return tuple(least)


def _time(blocks: tuple[float, ...], part: Part) -> float:
    first, *layers, last = blocks
    return (
        sum(count * seconds for count, seconds in zip(part.layers, layers, strict=True))
        + part.first * first
        + part.last * last
    )


@lru_cache(maxsize=4096)
def _stage_work(shape: Shape, pp: int, parts: int, sequence: int) -> tuple[float, float]:
    """FLOPs of a token, forward: on the stage with most, and on all others together."""
    every = [_work(shape, part, sequence) for part in all_parts(shape, pp, parts, (), sequence)]
    stages = [sum(every[stage::pp]) for stage in range(pp)]
    return max(stages), sum(stages) - max(stages)


def _work(shape: Shape, part: Part, sequence: int) -> float:
    found = sum(
        count * sum(layer_work(shape, layers, sequence).values())
        for count, layers in zip(part.layers, shape.layers, strict=True)
    )
    if part.last:
        found += 2.0 * shape.hidden * shape.vocab + sum(draft_work(shape, sequence).values())
    return found
