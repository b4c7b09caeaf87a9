"""Sampling: what may be drawn, how often it is, and that a seed settles it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from homegrown.generate import GenerateError, Sampler, SamplingConfig, distribution

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(torch.tensor)


def config(**changes: Any) -> SamplingConfig:
    """Everything off, so that each setting is seen alone."""
    return SamplingConfig(**({"top_p": 1.0} | changes))


def plain(logits: Tensor) -> Tensor:
    return logits.double().softmax(0)


@settings(deadline=None)
@given(LOGITS)
def test_all_tokens_and_their_probabilities_when_nothing_is_cut(logits: Tensor) -> None:
    probs, tokens = distribution(logits, config())
    assert sorted(tokens.tolist()) == list(range(len(logits)))
    torch.testing.assert_close(probs, plain(logits)[tokens], atol=1e-15, rtol=1e-12)
    assert (probs.diff() <= 0).all()


@settings(deadline=None)
@given(LOGITS, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_that_hold_the_mass(logits: Tensor, top_p: float) -> None:
    probs, tokens = distribution(logits, config(top_p=top_p))
    mass = plain(logits)[tokens]
    slack = 1e-12  # the cumulative sums may round differently
    assert mass.sum() >= top_p - slack
    assert mass[:-1].sum() < top_p + slack
    left_out = set(range(len(logits))) - set(tokens.tolist())
    assert all(plain(logits)[token] <= mass[-1] for token in left_out)
    torch.testing.assert_close(probs, mass / mass.sum())


@settings(deadline=None)
@given(LOGITS, st.integers(1, 50))
def test_top_k_keeps_that_many_of_the_likeliest(logits: Tensor, top_k: int) -> None:
    probs, tokens = distribution(logits, config(top_k=top_k))
    assert len(tokens) == min(top_k, len(logits))
    best = sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))
    assert tokens.tolist() == best[: len(tokens)], "of equals the lowest id"
    assert float(probs.sum()) == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(LOGITS, st.floats(0.0, 1.0))
def test_min_p_keeps_what_is_likely_enough_beside_the_best(logits: Tensor, min_p: float) -> None:
    _, tokens = distribution(logits, config(min_p=min_p))
    ratio = plain(logits) / plain(logits).max()
    margin = 1e-12
    assert set((ratio >= min_p + margin).nonzero()[:, 0].tolist()) <= set(tokens.tolist())
    assert set(tokens.tolist()) <= set((ratio >= min_p - margin).nonzero()[:, 0].tolist())


@settings(deadline=None)
@given(LOGITS, st.floats(0.05, 20))
def test_temperature_divides_the_logits(logits: Tensor, temperature: float) -> None:
    probs, tokens = distribution(logits, config(temperature=temperature))
    torch.testing.assert_close(probs, (logits.double() / temperature).softmax(0)[tokens])


def test_settings_apply_one_after_the_other() -> None:
    """top-p is taken of what top-k left: 0.5 / 0.8 is not enough for 0.65, though 0.5 + 0.3 of all would be."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
    assert distribution(logits, config(top_k=2, top_p=0.6))[1].tolist() == [0]
    assert distribution(logits, config(top_k=2, top_p=0.65))[1].tolist() == [0, 1]
    assert distribution(logits, config(top_p=0.6, min_p=0.7))[1].tolist() == [0]


def test_temperature_zero_is_the_first_of_the_best() -> None:
    sampler = Sampler(config(temperature=0))
    assert sampler(torch.tensor([1.0, 3.0, 3.0, 2.0])) == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-320])
def test_towards_temperature_zero_only_the_best_is_left(temperature: float) -> None:
    sampler = Sampler(config(temperature=temperature))
    assert {sampler(torch.tensor([1.0, 3.0, 2.9, -5.0])) for _ in range(50)} == {1}


def test_towards_infinite_temperature_all_are_alike() -> None:
    probs, _ = distribution(torch.tensor([10.0, -10.0, 3.0, 0.0]), config(temperature=1e9))
    torch.testing.assert_close(probs, torch.full((4,), 0.25, dtype=torch.float64), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 2.0, "min_p": 0.2}]
)
def test_tokens_are_drawn_as_often_as_they_should_be(changes: dict[str, float]) -> None:
    """Pearson's chi-square on 8 tokens; 35 is above the 99.99 % quantile at 7 degrees of freedom, the seed is fixed."""
    logits = torch.tensor([1.0, 0.2, -0.5, 2.0, 0.0, -1.5, 1.2, 0.7])
    probs, tokens = distribution(logits, config(**changes))
    sampler = Sampler(config(seed=11, **changes))
    draws = 4000
    counts = torch.bincount(torch.tensor([sampler(logits) for _ in range(draws)]), minlength=8)
    assert counts.sum() == counts[tokens].sum(), "nothing outside the distribution"
    expected = draws * probs
    assert float(((counts[tokens] - expected) ** 2 / expected).sum()) < 35


def test_a_seed_settles_the_draws_whatever_else_is_drawn() -> None:
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))

    def drawn(seed: int) -> list[int]:
        sampler = Sampler(config(seed=seed))
        return [sampler(row) for row in logits]

    once = drawn(5)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    assert drawn(5) == once
    assert drawn(6) != once
    assert torch.equal(torch.random.get_rng_state(), before), "the global random state is left alone"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_damaged_logits_are_refused(bad: float) -> None:
    with pytest.raises(GenerateError, match="not finite"):
        Sampler(config())(torch.tensor([0.0, bad]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, r"temperature = -0.1: must lie in \[0, inf\]"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_p": 1.5}, r"top_p = 1.5: must lie in \[0, 1\]"),
        ({"top_p": 0.0}, "use temperature = 0"),
        ({"min_p": -1.0}, "min_p = -1.0"),
        ({"top_k": -1}, "top_k = -1: must be at least 0"),
        ({"max_tokens": 0}, "max_tokens = 0: must be at least 1"),
        ({"stop": ("x", "")}, "an empty text stops everywhere"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerateError, match=message):
        SamplingConfig(**changes)
