"""Runs the model on batches of segments. What a pass needs comes with the batch, so that other ranks can run it too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor

from homegrown import ops
from homegrown.model import Longcat, Trunk
from homegrown.model.native import NativeModel
from homegrown.serve.engine.batch import Batch, DraftBatch, DraftSegment, Segment
from homegrown.serve.engine.context import PagedContext, history_of
from homegrown.serve.engine.draft import DraftHead
from homegrown.serve.engine.layout import Layout, alone, budget_of, indices, together
from homegrown.serve.engine.native import keys_of, rows_of, side_of
from homegrown.serve.engine.pages import PagePool
from homegrown.serve.engine.served import Served
from homegrown.serve.engine.stretch import Stretch, single_rows, stretch_of


class Runner:
    """A model and its pages.

    Args:
        model: the model.
        pool: its pages, made for it.
        invariant: a row's result does not depend on what else is in the batch, bit for bit: every stretch of a prompt
            is a pass of its own, and all other rows are computed as if each were alone. Text is then that of
            `homegrown.generate.decode`, if chunks are the same.
    """

    def __init__(self, model: Served, pool: PagePool, invariant: bool = False) -> None:
        self._model, self._pool, self._invariant = model, pool, invariant
        states = pool.buffers.states
        self._head = None if states is None else DraftHead(model, pool.buffers, states, invariant)
        self._batch = Batch(segments=[])
        self._passes: list[tuple[list[int], Trunk]] = []
        self._states = torch.empty(0)
        self._side: NativeModel | None = None

    @property
    def pool(self) -> PagePool:
        """The pages."""
        return self._pool

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Run a batch, and write its keys to the pages.

        Where drafts are kept, the draft block's rows are made, too, for segments without drafts among their tokens;
        the pass's states are kept for `draft`.

        Returns:
            [sum of `wanted`, V] logits, segment by segment.

        Raises:
            ValueError: a segment is empty, its pages have no room for it, or earlier tokens are missing.
        """
        for number, segment in enumerate(batch.segments):
            self._require(number, segment, len(segment.tokens))
        self._batch = batch
        starts = _starts(batch.segments)
        self._passes, self._side = [], side_of(self._model, self._pool.buffers)
        for numbers in self._split(batch.segments):
            trunk = self._pass([batch.segments[number] for number in numbers])
            rows = [row for number in numbers for row in range(starts[number], starts[number + 1])]
            self._passes.append((rows, trunk))
        self._states = self._in_order([self._model.draft_start(trunk)[0] for _, trunk in self._passes])
        return self._logits(batch.segments, starts)

    def _split(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Numbers of the segments of each pass."""
        if not self._invariant and self._side is None:
            return [list(range(len(segments)))] if segments else []
        prompts = [number for number, segment in enumerate(segments) if segment.prefill]
        others = [number for number, segment in enumerate(segments) if not segment.prefill]
        parts = [[number] for number in prompts] if self._invariant else [prompts]
        return [part for part in (*parts, others) if part]

    def _pass(self, segments: Sequence[Segment]) -> Trunk:
        side = None if segments[0].prefill else self._side
        trunk = self._by_operators(segments) if side is None else self._natively(side, segments)
        self._absorb(segments, self._model.draft_start(trunk)[0])
        return trunk

    def _natively(self, side: NativeModel, segments: Sequence[Segment]) -> Trunk:
        buffers, model = self._pool.buffers, cast(Longcat, self._model)  # no other has a native side
        stretches = [stretch_of(segment) for segment in segments]
        tokens = indices([token for segment in segments for token in segment.tokens], buffers.device)[None]
        with ops.row_by_row() if self._invariant else nullcontext():
            hidden = model.fused(tokens, history_of(Layout(stretches, []), tokens))
        return side.trunk(hidden, rows_of(stretches), keys_of(buffers))

    def _by_operators(self, segments: Sequence[Segment]) -> Trunk:
        config, buffers = self._model.config, self._pool.buffers
        apart = self._invariant and not segments[0].prefill
        stretches: list[Stretch] = []
        for segment in segments:
            stretches += single_rows(segment, max(config.ngram.order - 1, 0)) if apart else [stretch_of(segment)]
        numbers, budget = range(len(stretches)), budget_of(config, 0)
        groups = alone(numbers) if self._invariant else together(stretches, numbers, budget, buffers.page_size)
        context = PagedContext(config, buffers, Layout(stretches, groups), buffers.dtype, apart)
        tokens = indices([token for segment in segments for token in segment.tokens], buffers.device)[None]
        with ops.row_by_row() if apart else nullcontext():
            return self._model.trunk(tokens, context)

    def _absorb(self, segments: Sequence[Segment], states: Tensor) -> None:
        """Draft rows of the segments of a pass that hold no drafts; states [N, H] of the pass."""
        if self._head is None:
            return
        parts = states.split([len(segment.tokens) for segment in segments])
        certain = [(segment, own) for segment, own in zip(segments, parts, strict=True) if segment.certain]
        if certain:
            self._head.absorb([segment for segment, _ in certain], [own for _, own in certain])

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Rows of the passes, in the order of the batch."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return torch.empty(0)
        order = [row for rows, _ in self._passes for row in rows]
        joined = torch.cat(tuple(parts))
        return torch.empty_like(joined).index_copy_(0, indices(order, joined.device), joined)

    def _logits(self, segments: Sequence[Segment], starts: Sequence[int]) -> Tensor:
        ends = zip(segments, starts[1:], strict=True)
        wanted = [row for segment, end in ends for row in range(end - segment.wanted, end)]
        if not wanted:
            return self._pool.buffers.latent[0].new_empty(0, self._model.config.vocab_size)
        output = self._in_order([trunk.output[0] for _, trunk in self._passes])
        rows = output.index_select(0, indices(wanted, output.device))[None]
        side = self._side
        if side is not None and (self._invariant or len(wanted) <= side.most_rows):
            return side.logits(rows)[0]
        with ops.row_by_row() if self._invariant else nullcontext():
            return self._model.logits(rows)[0]

    @torch.inference_mode()
    def real_experts(self) -> Tensor:
        """Of every token of the last batch, the real (not zero-computation) experts it was given, averaged over
        layers: float32 [tokens]."""
        real = self._model.config.n_routed_experts
        counts = []
        for _, trunk in self._passes:
            layers = [(routing.index_NK < real).sum(-1, dtype=torch.float32) for routing in trunk.routing]
            counts.append(torch.stack(layers).mean(0))
        return self._in_order(counts)

    @torch.inference_mode()
    def draft(self, batch: DraftBatch) -> list[list[int]]:
        """Make the draft block's rows of newly accepted tokens, and draft behind them.

        Args:
            batch: continues the segments of the batch that was run last.

        Returns:
            Of each segment, as many tokens as it asked for, greedily chosen.

        Raises:
            ValueError: drafts are not kept, the tokens do not continue the segment named, or pages have no room.
        """
        if self._head is None:
            raise ValueError("drafts are not kept: the model has no draft block, or its pages were made without")
        if not batch.segments:
            return []
        starts = _starts(self._batch.segments)
        states = []
        for number, segment in enumerate(batch.segments):
            self._require(number, segment, len(segment.tokens) + max(segment.steps - 1, 0))
            first = starts[segment.segment] + self._offset(number, segment)
            states.append(self._states[first : first + len(segment.tokens)])
        return self._head.propose(batch.segments, states)

    def _offset(self, number: int, segment: DraftSegment) -> int:
        """The token of the last batch's segment behind which the first of these was chosen."""
        run = self._batch.segments[segment.segment]
        offset = segment.past - 1 - run.past
        if not 0 <= offset <= len(run.tokens) - len(segment.tokens):
            raise ValueError(
                f"draft segment {number}: positions {segment.past} to {segment.past + len(segment.tokens) - 1} do not "
                f"follow from positions {run.past} to {run.past + len(run.tokens) - 1} of segment {segment.segment}"
            )
        return offset

    def _require(self, number: int, segment: Segment | DraftSegment, room: int) -> None:
        """Raise unless a segment has tokens, room for so many positions, and the tokens before it."""
        name = f"{'segment' if isinstance(segment, Segment) else 'draft segment'} {number}"
        if not segment.tokens:
            raise ValueError(f"{name}: no tokens; at least one is needed")
        size = self._pool.page_size
        if segment.past + room > len(segment.pages) * size:
            raise ValueError(
                f"{name}: {len(segment.pages)} pages of {size} positions have no room for {room} behind {segment.past}"
            )
        needed = min(segment.past, max(self._model.config.ngram.order - 1, 0))
        if len(segment.earlier) < needed:
            raise ValueError(f"{name}: {len(segment.earlier)} earlier tokens; n-gram hashing needs {needed}")


def _starts(segments: Sequence[Segment]) -> list[int]:
    """Of each segment, its first token's place in the batch; then the number of tokens."""
    starts = [0]
    for segment in segments:
        starts.append(starts[-1] + len(segment.tokens))
    return starts
