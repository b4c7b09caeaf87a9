"""Which rows of a pass a process computes, and the parts of attention that fall to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.parallel.layout import Layout as Ranks
from homegrown.serve.engine.buffers import PageBuffers
from homegrown.serve.engine.layout import Layout, budget_of, indices
from homegrown.serve.engine.part import Part
from homegrown.serve.engine.stretch import Stretch


@dataclass(frozen=True)
class Share:
    """One rank's share of a pass of `count` rows, lengthened to a multiple of the number of ranks.

    Between blocks a rank has `own` rows, equal slices in the order of ranks. Attention has those of its tp group
    together, its `context` rows, with the heads of one rank each.

    Attributes:
        count: rows of the pass, at least one.
        ranks: who is who; cp and tp only.
        rank: this one.
    """

    count: int
    ranks: Ranks
    rank: int

    @property
    def each(self) -> int:
        """Rows of a rank."""
        return -(-self.count // self.ranks.world)

    @property
    def padded(self) -> int:
        """Rows in all, those that only fill up included."""
        return self.each * self.ranks.world

    @property
    def own(self) -> range:
        """This rank's rows."""
        return range(self.rank * self.each, (self.rank + 1) * self.each)

    @property
    def context(self) -> range:
        """The rows of its tp group."""
        group = self.rank // self.ranks.tp * self.ranks.tp
        return range(group * self.each, (group + self.ranks.tp) * self.each)

    def real(self, rows: range) -> int:
        """How many of some consecutive rows do not just fill up."""
        return max(min(rows.stop, self.count) - rows.start, 0)


@dataclass(frozen=True)
class Piece:
    """The rows of a whole pass's part that are among some consecutive rows.

    Attributes:
        number: of the part in the whole pass.
        part: of these rows; it counts them from the first of the consecutive ones.
        within: int64, which rows of the whole part they are.
    """

    number: int
    part: Part
    within: Tensor


def pieces(layout: Layout, rows: range, config: ModelConfig, buffers: PageBuffers) -> list[Piece]:
    """What falls to the real rows among `rows` of each part of a pass; nothing of a part that has none there."""
    found = []
    budget = budget_of(config, layout.shift)
    for number, group in enumerate(layout.groups):
        stretches: list[Stretch] = []
        starts: list[int] = []
        within: list[int] = []
        passed = 0
        for member in group:
            stretch, start = layout.stretches[member], layout.starts[member]
            first, stop = max(start, rows.start), min(start + stretch.count, rows.stop)
            if first < stop:
                stretches.append(replace(stretch, past=stretch.past + first - start, count=stop - first))
                starts.append(first - rows.start)
                within += range(passed + first - start, passed + stop - start)
            passed += stretch.count
        if stretches:
            part = Part(config, buffers, budget, layout.shift, stretches, starts, whole=_is_all(within, rows, layout))
            found.append(Piece(number, part, indices(within, buffers.device)))
    return found


def _is_all(within: Sequence[int], rows: range, layout: Layout) -> bool:
    """Whether a piece has all real rows of its range, in order: then the part is alone there."""
    return len(within) == min(rows.stop, layout.count) - rows.start
