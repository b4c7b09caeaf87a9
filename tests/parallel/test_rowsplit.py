"""How rows are cut, as data: no processes."""

from __future__ import annotations

import pytest
import torch

from homegrown.model import Longcat
from homegrown.model.ngram import ngram_ids
from homegrown.ops import Span
from homegrown.ops.attention import chunks
from homegrown.parallel.layout import Layout
from homegrown.parallel.rowsplit import RowSplit, columns
from homegrown.train.losses import WholeRows
from tests.train import tiny

LAYOUTS = [Layout(cp=cp, tp=tp) for cp, tp in ((1, 1), (1, 4), (2, 1), (2, 2), (2, 3), (4, 1), (4, 2))]


def splits(layout: Layout, length: int) -> list[RowSplit]:
    return [RowSplit(length, layout, rank) for rank in range(layout.world)]


@pytest.mark.parametrize("length", [1, 29, 48, 97])
@pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.describe)
class TestCut:
    def test_every_position_is_held_once(self, layout, length):
        parts = splits(layout, length)
        assert {part.padded for part in parts} == {-(-length // layout.sequence_unit) * layout.sequence_unit}
        held = [columns(part.own_runs) for part in parts]
        assert len({len(part) for part in held}) == 1
        assert sorted(torch.cat(held).tolist()) == list(range(parts[0].padded))

    def test_own_positions_are_a_slice_of_the_context_positions(self, layout, length):
        for part in splits(layout, length):
            assert torch.equal(columns(part.context_runs)[part.own], columns(part.own_runs))

    def test_gathered_positions_are_put_in_order(self, layout, length):
        parts = splits(layout, length)
        row = torch.arange(parts[0].padded)
        over_cp = torch.cat([columns(part.context_runs) for part in parts[:: layout.tp]])
        over_all = torch.cat([columns(part.own_runs) for part in parts])
        for gathered in (over_cp, over_all):
            assert torch.equal(parts[0].in_order(gathered[None, :, None])[0, :, 0], row)

    def test_take_fills_up(self, layout, length):
        x = torch.arange(2 * length).view(2, length)
        for part in splits(layout, length):
            at = columns(part.own_runs)
            expected = torch.where(at < length, x[:, at.clamp(max=length - 1)], -1)
            assert torch.equal(part.take(x, -1), expected)


def test_zig_zag():
    parts = splits(Layout(cp=2, tp=2), 16)
    assert [columns(part.own_runs).tolist() for part in parts] == [
        [0, 1, 2, 3], [12, 13, 14, 15],
        [4, 5, 6, 7], [8, 9, 10, 11],
    ]  # fmt: skip


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("length", [29, 48])
@pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.describe)
def test_ngrams_across_edges(layout, length, ahead):
    """Every row of every table as in whole rows, with documents and end-of-sequence tokens all over the edges."""
    config = tiny.model_config()
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(2, config.vocab_size, (3, length + 1), generator=generator)
    tokens[torch.rand(tokens.shape, generator=generator) < 0.2] = config.eos_token_id
    starts = torch.rand(tokens.shape, generator=generator) < torch.tensor([0.0, 0.1, 0.5])[:, None]
    first = torch.where(starts, torch.arange(length + 1), 0).cummax(1).values
    context = WholeRows().context(tiny_model(), tokens, first, "off")
    history = WholeRows().drafted(context, tokens, ahead) if ahead else context.history(tokens[:, :-1])

    def ids(history):
        rows = ngram_ids(history.tokens, config.ngram, config.vocab_size, config.eos_token_id, history.place)
        return history.tokens[:, history.new], rows[:, history.new]

    whole_tokens, whole_ids = ids(history)
    for part in splits(layout, length):
        at = columns(part.own_runs)
        real = at < length
        places = context.span.positions[:, at.clamp(max=length - 1)] + ahead
        rows = tokens if ahead else tokens[:, :-1]
        found_tokens, found_ids = ids(part.history(rows, places, ahead, 2, config.eos_token_id))
        assert torch.equal(found_tokens[:, real], whole_tokens[:, at[real]])
        assert torch.equal(found_ids[:, real], whole_ids[:, at[real]])


def tiny_model() -> Longcat:
    with torch.device("meta"):
        return Longcat(tiny.model_config())


def test_work_is_even():
    """(query, key) pairs that attention's blocks visit, for one document of 8192 tokens over 4 cp ranks: within 1 %.
    Cut in one piece each, the last rank would have seven times the work of the first."""
    visited = []
    for part in splits(Layout(cp=4), 8192):
        last = columns(part.context_runs)[None]
        span = Span(torch.zeros_like(last), last)
        bounds = [(start, stop, *span.bounds(start, stop)) for start, stop in chunks(span, 8192)]
        visited.append(sum((stop - start) * (high - low) for start, stop, low, high in bounds))
    assert max(visited) < 1.01 * min(visited)
    assert sum(visited) < 1.02 * 8192 * 8193 / 2
