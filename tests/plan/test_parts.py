"""Layers in pipeline parts, against every way to spread them."""

import dataclasses
from itertools import combinations_with_replacement, pairwise

import pytest

from homegrown.config import ConfigError
from homegrown.plan.facts import Layers
from homegrown.plan.layout import Layout
from homegrown.plan.parts import all_parts, balanced, parts_of
from homegrown.plan.shapes import preset_shape
from homegrown.plan.work import draft_work, layer_work
from tests.plan.published import DEEPSEEK_V3, LLAMA_405B


def cost(shape, sizes, sequence):
    """Work of the part that has most of it."""
    each = [sum(layer_work(shape, group, sequence).values()) for group in shape.layers for _ in range(group.count)]
    ends = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    found = [sum(each[start:stop]) for start, stop in pairwise(ends)]
    found[-1] += 2 * shape.hidden * shape.vocab + sum(draft_work(shape, sequence).values())
    return max(found)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("vocab", [100, 4000, 40000])
def test_no_other_spread_has_a_quicker_slowest_part(count, vocab):
    first = LLAMA_405B.layers[0]
    groups = (
        dataclasses.replace(first, count=3, dense=(4096,)),
        Layers(count=6, attention=first.attention, dense=(30000,)),
    )
    shape = dataclasses.replace(LLAMA_405B, hidden=1024, vocab=vocab, layers=groups)
    sizes = balanced(shape, count, 2048)
    assert sum(sizes) == 9 and len(sizes) == count
    borders = combinations_with_replacement(range(10), count - 1)
    every = ([stop - start for start, stop in pairwise((0, *inner, 9))] for inner in borders)
    assert cost(shape, sizes, 2048) == pytest.approx(min(cost(shape, other, 2048) for other in every), rel=1e-9)


def test_published_splits():
    """arXiv 2407.21783 section 3.3.2: one layer fewer on the first and the last stage of sixteen."""
    assert balanced(LLAMA_405B, 16, 8192) == (7, *[8] * 14, 7)
    # Megatron's layout of DeepSeek-V3 in 32 parts: one layer with the embedding, then two each, then both heads alone.
    assert balanced(DEEPSEEK_V3, 32, 4096) == (1, *[2] * 30, 0)
    # Three drafts unembed in the last stage: the recipe gives it one layer of 38, this none.
    assert balanced(preset_shape("longcat-2.0"), 8, 8192)[-1] <= 1


def test_parts_know_their_kinds_and_ends():
    every = all_parts(DEEPSEEK_V3, 4, 2, (), 4096)
    assert sum(part.layers[0] for part in every) == 3 and sum(part.layers[1] for part in every) == 58
    assert [part.first for part in every] == [True] + [False] * 7
    assert [part.last for part in every] == [False] * 7 + [True]
    layout = Layout(pp=4, parts=2, batch=8, sequence=4096)
    assert parts_of(DEEPSEEK_V3, layout, 1) == (every[1], every[5])


def test_layers_may_be_named():
    sizes = (4, 5, 5, 6, 6, 6, 5, 1)
    layout = Layout(pp=8, batch=8, sequence=8192, layers=sizes)
    found = [parts_of(preset_shape("longcat-2.0"), layout, stage)[0].layers[0] for stage in range(8)]
    assert tuple(found) == sizes


@pytest.mark.parametrize("sizes", [(19, 18), (38,), (40, -2)])
def test_layers_that_do_not_fit_are_refused(sizes):
    layout = Layout(pp=2, batch=8, sequence=8192, layers=sizes)
    with pytest.raises(ConfigError, match=r"layout\.layers = .*: must name the layers of 2 parts .*, 38 in all"):
        parts_of(preset_shape("longcat-2.0"), layout, 0)


def test_too_many_parts_are_refused():
    with pytest.raises(ConfigError, match=r"layout\.pp \* layout\.parts = 64: the model has only 38 layers"):
        parts_of(preset_shape("longcat-2.0"), Layout(pp=32, parts=2, batch=64, sequence=8192), 0)
