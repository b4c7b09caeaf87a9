"""Errors of benchmark scores, against closed forms, simulation and the published items."""

from __future__ import annotations

import math

import numpy as np
import pytest

from homegrown.config import ConfigError
from homegrown.plan.audit.benchmarks import (
    CORRELATION,
    benchmark_of,
    chance,
    compare,
    load_benchmarks,
    scored,
    standard_error,
    wilson,
)
from homegrown.plan.audit.claim import Score

BENCHMARKS = load_benchmarks()


def score(benchmark: str, model: str, value: float, *, own: bool = False, runs: int = 1) -> Score:
    return Score(benchmark=benchmark, model=model, value=value, source="", date="", mark="A", own=own, runs=runs)


@pytest.mark.parametrize(
    ("benchmark", "items", "share", "points"),
    [
        ("swe-bench-pro", 731, 0.595, 1.8),
        ("swe-bench-multilingual", 300, 0.773, 2.4),
        ("terminal-bench-2.1", 89, 0.708, 4.8),
    ],
)
def test_errors_of_the_three_agentic_benchmarks(benchmark, items, share, points):
    assert BENCHMARKS[benchmark].items == items
    assert scored(score(benchmark, "m", share), BENCHMARKS).error * 100 == pytest.approx(points, abs=0.05)


def test_standard_error_is_that_of_simulated_runs():
    draw = np.random.default_rng(0)
    means = draw.binomial(89, 0.708, 20000) / 89
    assert standard_error(0.708, 89) == pytest.approx(means.std(), rel=0.03)
    noisy = draw.binomial(5, 0.708, (5000, 89)).mean(1) / 5  # five runs whose items' outcomes are all chance
    assert standard_error(0.708, 89, 5, repeats=False) == pytest.approx(noisy.std(), rel=0.04)
    assert standard_error(0.708, 89, 5) == standard_error(0.708, 89)


def test_wilson_solves_its_equation_and_covers():
    low, high = wilson(0.708, 89)
    for end in (low, high):  # the ends are shares from which the mean is 1.96 of their own errors away
        assert abs(0.708 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 89), rel=1e-6)
    assert wilson(0.0, 30)[0] == pytest.approx(0.0, abs=1e-12)
    assert 0 < wilson(0.0, 30)[1] < 0.15
    draw = np.random.default_rng(1)
    hits = [low <= 0.3 <= high for low, high in (wilson(mean, 100) for mean in draw.binomial(100, 0.3, 4000) / 100)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_chance_is_the_normal_tail():
    assert chance(1.959964, 1.0) == pytest.approx(0.05, rel=1e-5)
    assert chance(0.0, 1.0) == 1.0


def test_paired_error_is_that_of_correlated_outcomes():
    draw = np.random.default_rng(2)
    own, other = 0.6, 0.7
    normals = draw.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], (3000, 300))
    solved = normals < [np.quantile(normals[..., 0], own), np.quantile(normals[..., 1], other)]
    correlation = np.corrcoef(solved[..., 0].ravel(), solved[..., 1].ravel())[0, 1]
    gaps = solved[..., 0].mean(1) - solved[..., 1].mean(1)
    (pair,) = compare([scored(score("swe-bench-multilingual", "a", own, own=True), BENCHMARKS),
                       scored(score("swe-bench-multilingual", "b", other), BENCHMARKS)])  # fmt: skip
    variance = pair.error**2 - (pair.error**2 - pair.paired**2) * correlation / CORRELATION
    assert math.sqrt(variance) == pytest.approx(gaps.std(), rel=0.05)


class TestComparisons:
    def test_holm_by_hand(self):
        own = scored(score("mmlu", "own", 0.5, own=True), BENCHMARKS)
        others = [
            scored(score("mmlu", name, value), BENCHMARKS) for name, value in (("a", 0.502), ("b", 0.51), ("c", 0.52))
        ]
        pairs = {pair.second.score.model: pair for pair in compare([own, *others])}
        p = {name: pairs[name].p for name in "abc"}
        assert p["c"] < p["b"] < p["a"]
        assert pairs["c"].adjusted == pytest.approx(min(3 * p["c"], 1))
        assert pairs["b"].adjusted == pytest.approx(max(3 * p["c"], min(2 * p["b"], 1)))
        assert pairs["a"].adjusted == pytest.approx(max(min(2 * p["b"], 1), p["a"]))

    def test_only_the_claims_own_model_is_compared_and_only_on_one_benchmark(self):
        held = [score("mmlu", "own", 0.5, own=True), score("mmlu", "a", 0.6), score("gsm8k", "b", 0.7)]
        assert [pair.second.score.model for pair in compare([scored(item, BENCHMARKS) for item in held])] == ["a"]


def test_names_are_forgiving_and_mistakes_are_told():
    assert benchmark_of("SWE-Bench Pro", BENCHMARKS) is BENCHMARKS["swe-bench-pro"]
    assert benchmark_of("Terminal-Bench 2.1", BENCHMARKS).items == 89
    with pytest.raises(ConfigError, match=r"no benchmark 'swe-bench-pr0'; did you mean 'swe-bench-pro'\?"):
        benchmark_of("swe-bench-pr0", BENCHMARKS)


def test_every_benchmark_has_a_source():
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.items >= 30 and benchmark.source and benchmark.date, name
