"""Draws equal those by definition, token for token, whichever way they are found."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from homegrown.generate import Sampler, SamplingConfig, distribution
from homegrown.serve.engine import draw as module
from homegrown.serve.engine.draw import defined, draw

SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([1e-320, 0.05, 0.7, 1.0, 3.0, 1e9]),
        "top_p": st.sampled_from([1.0, 0.999999, 0.9, 0.5, 0.01]),
        "top_k": st.sampled_from([0, 1, 3, 7, 30]),
        "min_p": st.sampled_from([0.0, 0.001, 0.3, 1.0]),
    }
)
LOGITS = st.lists(st.integers(-4, 4) | st.floats(-20, 20, width=32), min_size=1, max_size=60)  # integers: many ties
POINTS = st.floats(0, 1, exclude_max=True)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists so short that small vocabularies need several."""
    monkeypatch.setattr(module, "FIRST", 2)
    monkeypatch.setattr(module, "GROWTH", 2)


def by_hand(logits: Tensor, config: SamplingConfig, point: float) -> int:
    probs, tokens = distribution(logits, config)
    total, target = 0.0, point * float(probs.cumsum(0)[-1])
    for height, token in zip(probs.cumsum(0).tolist(), tokens.tolist(), strict=True):
        total = height
        if total > target:
            return token
    return int(tokens[-1])


@settings(deadline=None, max_examples=400)
@given(LOGITS, SETTINGS, POINTS)
def test_definition(logits: list[float], fields: dict[str, Any], point: float) -> None:
    row, config = torch.tensor(logits, dtype=torch.float32), SamplingConfig(**fields)
    assert defined(row, config, point) == by_hand(row, config, point)
    assert draw(row[None], [config], [point]) == [by_hand(row, config, point)]


@pytest.mark.usefixtures("short")
def test_short_lists() -> None:
    @settings(deadline=None, max_examples=600)
    @given(LOGITS, SETTINGS, POINTS)
    def check(logits: list[float], fields: dict[str, Any], point: float) -> None:
        row, config = torch.tensor(logits, dtype=torch.float32), SamplingConfig(**fields)
        assert draw(row[None], [config], [point]) == [by_hand(row, config, point)]

    check()


@pytest.mark.usefixtures("short")
def test_points_on_the_very_edges() -> None:
    """The next float below, at and above each step of the distribution."""
    logits = torch.randn(40, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    for fields in ({}, {"top_p": 0.8}, {"top_k": 9}, {"min_p": 0.2}):
        config = SamplingConfig(**{"top_p": 1.0, **fields})
        heights = distribution(logits, config)[0].cumsum(0).tolist()
        points = [
            point for height in heights for point in (math.nextafter(height, 0), height, math.nextafter(height, 2))
        ]
        points = [0.0, *(point for point in points if point < 1)]
        expected = [by_hand(logits, config, point) for point in points]
        assert draw(logits.expand(len(points), -1), [config] * len(points), points) == expected


@pytest.mark.usefixtures("short")
def test_nucleus_that_ends_on_the_very_edge() -> None:
    """Of eight equal tokens, each has an eighth to the last bit: is the fifth inside a nucleus of a half?"""
    logits = torch.zeros(8)
    for top_p in (0.5, math.nextafter(0.5, 0), math.nextafter(0.5, 1)):
        config = SamplingConfig(top_p=top_p)
        for point in (0.0, 0.7, 0.999):
            assert draw(logits[None], [config], [point]) == [by_hand(logits, config, point)]


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.95}, {"top_k": 40, "top_p": 0.9}, {"min_p": 0.02}, {"top_k": 900}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_vocabulary(fields: dict[str, Any], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = 3 * torch.randn(24, 20_000, generator=generator, dtype=dtype)
    rows[:, 100:300] = rows[:, 300:500]  # ties
    kept = rows.clone()
    config = SamplingConfig(**{"top_p": 1.0, "seed": 5, **fields})
    sampler, points = Sampler(config), torch.Generator().manual_seed(5)
    uniform = [float(torch.rand((), dtype=torch.float64, generator=points)) for _ in rows]
    assert draw(rows, [config] * len(rows), uniform) == [sampler(row) for row in rows]
    assert torch.equal(rows, kept)


def test_the_vocabulary_is_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> int:
        raise AssertionError("sorted the vocabulary")

    monkeypatch.setattr(module, "defined", never)
    logits = torch.linspace(12, -12, 20_000)  # 400 tokens hold 38 % of the mass
    for fields in ({}, {"top_p": 0.3}, {"top_k": 40}, {"min_p": 0.1}, {"top_k": 3000}):
        assert draw(logits[None], [SamplingConfig(**{"top_p": 1.0, **fields})], [0.25])[0] >= 0


def test_forbidden_tokens_are_as_if_they_were_not_there() -> None:
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(30, 3000, generator=generator)
    allowed = torch.rand(3000, generator=generator) < 0.01
    points = torch.rand(30, generator=generator, dtype=torch.float64).tolist()
    ids = allowed.nonzero()[:, 0]
    for fields in ({}, {"top_p": 0.5}, {"top_k": 5}, {"top_k": 500}, {"min_p": 0.1}):
        config = SamplingConfig(**{"top_p": 1.0, **fields})
        expected = [int(ids[by_hand(row[ids], config, point)]) for row, point in zip(rows, points, strict=True)]
        masked = rows.masked_fill(~allowed, -math.inf)
        assert draw(masked, [config] * 30, points) == expected


def test_rows_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(6)
    rows = torch.randn(6, 5000, generator=generator)
    configs = [SamplingConfig(**fields) for fields in ({}, {"top_k": 3}, {"temperature": 0.1}, {"temperature": 50})]
    configs = [*configs, SamplingConfig(min_p=0.5), SamplingConfig(top_p=1.0)]
    points = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    alone = [draw(rows[i : i + 1], configs[i : i + 1], points[i : i + 1])[0] for i in range(6)]
    assert draw(rows, configs, points) == alone
    assert draw(rows.flip(0), configs[::-1], points[::-1]) == alone[::-1]
