"""The draft block over pages: rows for tokens that are certain, and proposals behind them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from homegrown import ops
from homegrown.generate.sampling import greedy
from homegrown.model import Draft, History, Longcat
from homegrown.model.sparse import Selection
from homegrown.serve.engine.batch import DraftSegment, Segment
from homegrown.serve.engine.buffers import PageBuffers
from homegrown.serve.engine.context import PagedContext, PagedSelection
from homegrown.serve.engine.layout import Layout, alone, budget_of, indices, together
from homegrown.serve.engine.native import chosen_of, keys_of, rows_of, selection_of, side_of
from homegrown.serve.engine.served import Served
from homegrown.serve.engine.stretch import Stretch, cell, single_rows, stretch_of


@dataclass(frozen=True)
class _Lot:
    """Sequences whose newest rows attend together in the further steps.

    Attributes:
        members: numbers of their segments.
        cells: int64 [1, B, K] cells that the first step chose; `None` where it saw all keys.
    """

    members: list[int]
    cells: Tensor | None

    def only(self, members: Sequence[int]) -> _Lot:
        """Those of `members` that are in the lot."""
        keep = [at for at, member in enumerate(self.members) if member in members]
        cells = self.cells
        if cells is not None and len(keep) < len(self.members):
            cells = cells.index_select(1, indices(keep, cells.device))
        return _Lot([self.members[at] for at in keep], cells)


class DraftHead:
    """A model's draft block at work on many sequences.

    Args:
        model: with a draft block.
        buffers: with its rows.
        invariant: compute every row as if it were alone.
    """

    def __init__(self, model: Served, buffers: PageBuffers, states: Tensor, invariant: bool) -> None:
        self._model, self._buffers, self._states, self._invariant = model, buffers, states, invariant
        self._look_back = max(model.config.ngram.order - 1, 0)

    def absorb(self, segments: Sequence[Segment], states: Sequence[Tensor]) -> None:
        """Make the rows of tokens that are certain, and keep the states behind them.

        Args:
            segments: of a pass.
            states: of each of them, [its tokens, H].
        """
        previous = [self._before(segment, own) for segment, own in zip(segments, states, strict=True)]
        for segment, own in zip(segments, states, strict=True):
            self._keep(segment.pages, segment.past, own)
        # No state comes before a text's first token.
        skips = [segment.past == 0 for segment in segments]
        tokens = [token for segment, skip in zip(segments, skips, strict=True) for token in segment.tokens[skip:]]
        if not tokens:
            return
        apart = self._invariant and not segments[0].prefill
        stretches: list[Stretch] = []
        for segment, skip in zip(segments, skips, strict=True):
            if len(segment.tokens) > skip:
                stretches += single_rows(segment, self._look_back, skip) if apart else [stretch_of(segment, skip)]
        # The only block's keys come from its input: rows from which nothing is drafted need not attend.
        self._first(Layout(stretches, [], 1), tokens, torch.cat(previous)[None], apart)

    def _before(self, segment: Segment, states: Tensor) -> Tensor:
        """The states before a segment's tokens; the one before the first was kept with its page."""
        if segment.past == 0:
            return states[:-1]
        page = segment.pages[(segment.past - 1) // self._buffers.page_size]
        return torch.cat((self._states[page : page + 1], states[:-1]))

    def _keep(self, pages: Sequence[int], past: int, states: Tensor) -> None:
        """Keep, with every page, the state behind its newest token; states [n, H] of the positions from `past` on."""
        size = self._buffers.page_size
        newest = {pages[(past + row) // size]: row for row in range(len(states))}
        device = states.device
        rows = states.index_select(0, indices(list(newest.values()), device))
        self._states.index_copy_(0, indices(list(newest), device), rows)

    def propose(self, segments: Sequence[DraftSegment], states: Sequence[Tensor]) -> list[list[int]]:
        """Make the rows of newly accepted tokens, and draft the tokens that follow.

        Args:
            segments: the tokens; no sequence twice.
            states: of each of them, those before its tokens, [tokens, H].

        Returns:
            Of each segment, as many drafts as it asked for.
        """
        stretches: list[Stretch] = []
        newest: list[int] = []
        for segment, own in zip(segments, states, strict=True):
            self._keep(segment.pages, segment.past - 1, own)
            stretches += self._rows(segment)
            newest.append(len(stretches) - 1)
        wanted = [number for segment, number in zip(segments, newest, strict=True) if segment.steps]
        layout = Layout(stretches, self._groups(stretches, wanted), 1)
        tokens = [token for segment in segments for token in segment.tokens]
        draft, context = self._first(layout, tokens, torch.cat(tuple(states))[None], self._invariant)
        lots = _lots(context, draft, newest)
        members = [member for lot in lots for member in lot.members]
        proposals: list[list[int]] = [[] for _ in segments]
        if members:
            ends = [context.layout.starts[newest[member] + 1] - 1 for member in members]
            rows = indices(ends, self._buffers.device)
            output, chained = draft.output.index_select(1, rows), draft.chained.index_select(1, rows)
            steps = self._further(segments, lots, Draft(output, chained, draft.selection, ()))
            for numbers, drafted in steps:
                for number, token in zip(numbers, drafted.tolist(), strict=True):
                    proposals[number].append(token)
        return proposals

    def _rows(self, segment: DraftSegment) -> list[Stretch]:
        """Stretches of newly accepted tokens, the newest by itself."""
        if self._invariant:
            return single_rows(segment, self._look_back)
        older = [replace(stretch_of(segment), count=len(segment.tokens) - 1)] if len(segment.tokens) > 1 else []
        return [*older, stretch_of(segment, len(segment.tokens) - 1)]

    def _groups(self, stretches: Sequence[Stretch], numbers: Sequence[int]) -> list[list[int]]:
        if self._invariant:
            return alone(numbers)
        budget = budget_of(self._model.config, 1)
        return together(stretches, numbers, budget, self._buffers.page_size, shift=1)

    def _first(
        self, layout: Layout, tokens: Sequence[int], previous: Tensor, apart: bool
    ) -> tuple[Draft, PagedContext]:
        """Rows for previous [1, N, H] and the tokens behind them."""
        context = PagedContext(self._model.config, self._buffers, layout, self._buffers.dtype, apart)
        row = indices(tokens, self._buffers.device)[None]
        with ops.row_by_row() if apart else nullcontext():
            return self._run(row, previous, context), context

    def _run(
        self,
        tokens: Tensor,
        previous: Tensor,
        context: PagedContext,
        selection: Selection | None = None,
        history: History | None = None,
    ) -> Draft:
        """A step of the block; prompts' rows by PyTorch's operators."""
        stretches, side = context.layout.stretches, side_of(self._model, self._buffers, look=False)
        if side is None or any(stretch.prefill for stretch in stretches):
            return self._model.draft(tokens, previous, context, selection, history)
        given = chosen_of(selection, context.layout) if isinstance(selection, PagedSelection) else None
        embedded = cast(Longcat, self._model).embed_drafted(tokens, context, history)  # no other has a native side
        draft, chosen = side.draft(embedded, previous, rows_of(stretches, 1), keys_of(self._buffers, 1), given)
        return draft._replace(selection=selection_of(chosen, context.layout))

    def _further(
        self, segments: Sequence[DraftSegment], lots: list[_Lot], draft: Draft
    ) -> list[tuple[list[int], Tensor]]:
        """All steps' proposals: numbers of segments, and a token for each of them.

        Args:
            segments: all of them.
            lots: those that want drafts.
            draft: the first step's rows of the lots' members, in order.
        """
        members = [member for lot in lots for member in lot.members]
        tokens = self._choose(draft.output)
        window = _Window(self._model, segments, members, tokens.device)
        made = [(members, tokens)]
        for step in range(1, max(segment.steps for segment in segments)):
            going = [member for member in members if segments[member].steps > step]
            if len(going) < len(members):
                keep = indices([members.index(member) for member in going], tokens.device)
                draft = draft._replace(chained=draft.chained.index_select(1, keep))
                tokens, members = tokens.index_select(0, keep), going
                lots = [lot for lot in (lot.only(going) for lot in lots) if lot.members]
                window.only(keep)
            draft = self._step(segments, lots, draft, tokens, step, window)
            tokens = self._choose(draft.output)
            made.append((members, tokens))
        return made

    def _choose(self, output: Tensor) -> Tensor:
        if side := side_of(self._model, self._buffers, look=False):
            return greedy(side.logits(output))[0]
        with ops.row_by_row() if self._invariant else nullcontext():
            return greedy(self._model.logits(output))[0]

    def _step(
        self,
        segments: Sequence[DraftSegment],
        lots: Sequence[_Lot],
        before: Draft,
        tokens: Tensor,
        step: int,
        window: _Window,
    ) -> Draft:
        """A further step: one row for every sequence, `step` places behind its newest token."""
        config, buffers = self._model.config, self._buffers
        newest = {member: _newest(segments[member]) for lot in lots for member in lot.members}
        stretches = [Stretch(place + step, 1, segments[member].pages) for member, place in newest.items()]
        groups: list[list[int]] = []
        for lot in lots:
            first = groups[-1][-1] + 1 if groups else 0
            groups.append(list(range(first, first + len(lot.members))))
        context = PagedContext(config, buffers, Layout(stretches, groups, 1), buffers.dtype, self._invariant)
        selection = None
        if before.selection is not None:
            cells = tuple(self._with_own(lot, segments, step) for lot in lots)
            selection = PagedSelection(None, before.selection.index, cells)
        history = window.push(tokens)
        with ops.row_by_row() if self._invariant else nullcontext():
            draft = self._run(tokens[None], before.chained, context, selection, history)
        return draft._replace(selection=before.selection)

    def _with_own(self, lot: _Lot, segments: Sequence[DraftSegment], step: int) -> Tensor | None:
        """The first step's choice, and the rows of the further steps: these are newer, and join it as the newest keys
        always do."""
        if lot.cells is None:
            return None
        own = []
        for member in lot.members:
            newest = _newest(segments[member])
            stretch = Stretch(newest + 1, step, segments[member].pages)
            own.append([cell(stretch, place, self._buffers.page_size) for place in range(stretch.past, stretch.stop)])
        return torch.cat((lot.cells, torch.tensor([own], device=lot.cells.device)), dim=-1)


def _newest(segment: DraftSegment) -> int:
    """The position of a segment's last token."""
    return segment.past + len(segment.tokens) - 1


def _lots(context: PagedContext, draft: Draft, newest: Sequence[int]) -> list[_Lot]:
    """The groups of the first step.

    Args:
        context, draft: of the first step.
        newest: of each segment, the stretch of its newest row.
    """
    segment_of = {stretch: number for number, stretch in enumerate(newest)}
    groups = context.layout.groups
    chosen = draft.selection.cells if isinstance(draft.selection, PagedSelection) else (None,) * len(groups)
    members = [[segment_of[stretch] for stretch in group] for group in groups]
    return [_Lot(*lot) for lot in zip(members, chosen, strict=True)]


class _Window:
    """The tokens before each drafted one, where drafts are embedded with their n-grams."""

    def __init__(
        self, model: Served, segments: Sequence[DraftSegment], members: Sequence[int], device: torch.device
    ) -> None:
        order = model.config.ngram.order if model.config.mtp.use_ngram else 0
        self._tokens: Tensor | None = None
        if order:
            rows = []
            for member in members:
                known = [*segments[member].earlier, *segments[member].tokens][1 - order :]
                rows.append([-1] * (order - 1 - len(known)) + known)
            self._tokens = indices([token for row in rows for token in row], device).view(len(rows), order - 1)

    def only(self, keep: Tensor) -> None:
        """Keep these rows."""
        if self._tokens is not None:
            self._tokens = self._tokens.index_select(0, keep)

    def push(self, tokens: Tensor) -> History | None:
        """Append a drafted token to every row; what hashing looks back over."""
        if self._tokens is None:
            return None
        row = torch.cat((self._tokens, tokens[:, None]), dim=1)
        self._tokens = row[:, 1:]
        width = row.shape[1]
        # Rows lie behind one another; none looks back over more than its own.
        places = torch.arange(width, device=row.device).repeat(len(row))
        new = torch.arange(width - 1, row.numel(), width, device=row.device)
        return History(row.flatten()[None], places[None], new)
