"""Rows of one sequence in a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homegrown.serve.engine.batch import DraftSegment, Segment


@dataclass(frozen=True)
class Stretch:
    """Rows of one sequence side by side in a pass.

    Attributes:
        past: position in the text of the first row's token.
        count: rows.
        pages: of the sequence.
        earlier: the tokens before the first row's.
        prefill: hierarchical indexing applies.
    """

    past: int
    count: int
    pages: Sequence[int]
    earlier: Sequence[int] = ()
    prefill: bool = False

    @property
    def stop(self) -> int:
        """One past the position of the last row's token."""
        return self.past + self.count


def cell(stretch: Stretch, place: int, page_size: int) -> int:
    """The cell of the position `place` in a sequence's pages."""
    return stretch.pages[place // page_size] * page_size + place % page_size


def stretch_of(new: Segment | DraftSegment, skip: int = 0) -> Stretch:
    """A segment's rows but for the first `skip`."""
    prefill = isinstance(new, Segment) and new.prefill
    earlier = [*new.earlier, *new.tokens[:skip]]
    return Stretch(new.past + skip, len(new.tokens) - skip, new.pages, earlier, prefill)


def single_rows(new: Segment | DraftSegment, look_back: int, skip: int = 0) -> list[Stretch]:
    """The same rows as stretches of one row each; `look_back`: earlier tokens that matter."""
    known = [*new.earlier, *new.tokens]
    before = len(new.earlier)
    return [
        Stretch(new.past + row, 1, new.pages, known[max(before + row - look_back, 0) : before + row])
        for row in range(skip, len(new.tokens))
    ]
