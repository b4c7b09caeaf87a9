"""What no layout can do better than: seconds of a token, bytes of a device. The search skips layouts by these and so
loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from homegrown.plan.enumerate import Frame, Space
from homegrown.plan.layout import Layout
from homegrown.plan.parts import Part, all_parts
from homegrown.plan.results import Memory
from homegrown.plan.schedule import bubble
from homegrown.plan.step import StepModel

AGAIN, EXPERTS = "recomputation", "experts"
"""Components of a block's computation."""
HELD = ("expert weights", "expert gradients")
"""Components of memory that are shared evenly by the devices that experts are spread over."""


class Floor(NamedTuple):
    """Bytes that layouts of a frame need at least: of everything but experts, of experts on all devices together that
    share them, and how many these are at most."""

    rest: float
    experts: float
    widest: int

    def of(self, spread: int) -> float:
        """With experts over so many devices."""
        return self.rest + self.experts / spread

    @property
    def least(self) -> float:
        """Of all layouts."""
        return self.of(self.widest)


class Bounds:
    """Bounds of the frames of a space, and of single layouts.

    Experts cost time in three ways. Their products are the quicker the more tokens each gets, so the wider they are
    spread; their traffic, and waiting for the fullest of them, is least where they are not spread at all. So a layer
    takes no less than it does with experts that are everywhere, their products as quick as where they are spread most.
    N-gram rows travel least, too, where the tables are everywhere. Whatever is done again comes on top, and so does all
    that a step does once.
    """

    def __init__(self, space: Space, model: StepModel, need: Callable[[Layout], Memory]) -> None:
        self._space, self._model, self._need = space, model, need
        self._known: dict[tuple[int, int, int], tuple[float, ...]] = {}

    def of_frame(self, frame: Frame) -> float:
        """Seconds of a token that no layout of a frame goes below.

        The slowest stage computes every micro-batch, and waits for the others to fill and to empty the pipeline: their
        time for one micro-batch, shared by the parts when interleaved (arXiv 2104.04473 section 2.2). Each replica has
        tokens of its own, and waits once in all tokens of a step. Of schedules that fill the gaps with other work it is
        only certain that they do not wait less than not at all.
        """
        space, sequences = self._space, frame.micro_batch
        blocks = self._blocks(frame)
        parts = all_parts(space.shape, frame.pp, frame.parts, (), space.sequence)
        every = [_time(blocks, part) for part in parts]
        stages = [sum(every[stage :: frame.pp]) for stage in range(frame.pp)]
        slowest = max(stages)
        gap = 0.0 if frame.schedule in ("zero-bubble", "dual") else (sum(stages) - slowest) / frame.parts
        return (slowest / (space.replicas(frame) * sequences) + gap / space.most) / space.sequence

    def of_layout(self, layout: Layout) -> float:
        """Seconds of a token that a layout does not go below: its passes and what its pipeline waits."""
        times = self._model.stage_times(layout)
        waiting = bubble(
            layout.schedule, layout.parts, [time.forward for time in times], [time.backward for time in times],
            [time.weights for time in times],
        )  # fmt: skip
        return (layout.micro_batches * max(time.both for time in times) + waiting) / layout.tokens

    def memory(self, frame: Frame) -> Floor:
        """Bytes that layouts of a frame need at least on their fullest device.

        Each component only shrinks with all sizes of a fold, or only grows with them: weights shrink as experts and
        tables are spread further, buffers and the slack of uneven experts grow. So none is below its least at the
        folds where sizes are least and most. Experts' weights are in proportion to how wide they are spread.
        """
        corners = [(layout.ep * layout.etp, self._need(layout).parts) for layout in self._space.corners(frame)]
        if not corners:
            return Floor(0.0, 0.0, 1)
        spread, widest = max(corners, key=lambda corner: corner[0])
        experts = sum(widest.get(name, 0.0) for name in HELD)
        least = sum(min(parts.get(name, 0.0) for _, parts in corners) for name in corners[0][1])
        return Floor(least - experts, experts * spread, spread)

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
