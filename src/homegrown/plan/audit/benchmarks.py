"""Benchmark scores with the errors they have, and which differences between models are none.

A score is the mean of so many items, drawn from all the items that could have been written; its standard error follows
(Miller, "Adding Error Bars to Evals", arXiv 2411.00640). Scores of two models on the same items are paired, which
helps if both solve the same ones; without results item by item one can only say between which bounds.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from statistics import NormalDist
from typing import Any, Literal

from homegrown.config import ConfigError, build
from homegrown.plan.audit.claim import Score

CONFIDENCE = 0.95
_NORMAL = NormalDist()
Z = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
"""Standard errors to either side of a 95 % interval: 1.96."""
CORRELATION = 0.7
"""Of two models' results on the same items, at most: 0.3 to 0.7 among frontier models
(anthropic.com/research/statistical-approach-to-model-evals, 2024-11-19)."""

Difference = Literal["a tie", "different", "cannot be decided"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark.

    Attributes:
        items: independent tasks of it.
        pitfalls: what a score may hide, in sentences.
    """

    title: str
    items: int
    source: str
    date: str
    mark: str = "A"
    aliases: list[str] = field(default_factory=list)
    pitfalls: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A score with its doubt.

    Attributes:
        error: standard error if every item comes out the same in each run; `least`: if runs average all doubt out.
        low, high: 95 % interval by Wilson's formula (as if of one run).
    """

    score: Score
    benchmark: Benchmark
    error: float
    least: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on one benchmark.

    Attributes:
        gap: the first's score less the second's.
        error: standard error of the gap for unrelated results (the widest); `paired`: for strongly related ones.
        p: chance of a gap so wide between equals, by the widest error; `adjusted` for the number of comparisons (Holm
            1979). closest: the same by the narrowest error, not adjusted.
    """

    first: Scored
    second: Scored
    gap: float
    error: float
    paired: float
    p: float
    closest: float
    adjusted: float = 1.0

    @property
    def verdict(self) -> Difference:
        """`different` if it stays so at the widest error and among all comparisons, `a tie` if it is none even at the
        narrowest; in between only results item by item can tell."""
        if self.adjusted < 1 - CONFIDENCE:
            return "different"
        return "a tie" if self.closest >= 1 - CONFIDENCE else "cannot be decided"


def load_benchmarks(more: Mapping[str, Any] | None = None) -> dict[str, Benchmark]:
    """Benchmarks by name, those of the package and `more` as a table of the same form.

    Raises:
        ConfigError: an entry is wrong.
    """
    text = (resources.files("homegrown.plan") / "data/scores.toml").read_text("utf-8")
    tables = {**tomllib.loads(text), **(more or {})}
    found = {name: build(Benchmark, dict(table), f"benchmark {name}") for name, table in tables.items()}
    for name, benchmark in found.items():
        if benchmark.items < 1:
            raise ConfigError(f"benchmark {name}: items = {benchmark.items}: must be at least 1")
    return found


def benchmark_of(name: str, benchmarks: Mapping[str, Benchmark]) -> Benchmark:
    """The benchmark called so, whatever its spelling.

    Raises:
        ConfigError: there is none.
    """
    known = {_plain(word): entry for key, entry in benchmarks.items() for word in (key, entry.title, *entry.aliases)}
    if _plain(name) not in known:
        close = difflib.get_close_matches(name, benchmarks, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"no benchmark {name!r}{hint}; there are: {', '.join(benchmarks)}")
    return known[_plain(name)]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def standard_error(share: float, items: int, runs: int = 1, *, repeats: bool = True) -> float:
    """Standard error of a mean of zeros and ones over items.

    Args:
        share: the mean.
        items: independent tasks.
        runs: attempts at each.
        repeats: an item comes out the same in every run, so that runs tell nothing new; otherwise all doubt is within
            items and runs average it out. The truth lies between the two.
    """
    return math.sqrt(share * (1 - share) / (items * (1 if repeats else runs)))


def wilson(share: float, items: int, z: float = Z) -> tuple[float, float]:
    """Confidence interval of a share, inside 0 to 1 even for none or all (Wilson 1927)."""
    middle = (share + z * z / (2 * items)) / (1 + z * z / items)
    half = z / (1 + z * z / items) * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    return middle - half, middle + half


def scored(score: Score, benchmarks: Mapping[str, Benchmark]) -> Scored:
    """A score with its doubt."""
    benchmark = benchmark_of(score.benchmark, benchmarks)
    low, high = wilson(score.value, benchmark.items)
    return Scored(
        score=score,
        benchmark=benchmark,
        error=standard_error(score.value, benchmark.items),
        least=standard_error(score.value, benchmark.items, score.runs, repeats=False),
        low=low,
        high=high,
    )


def compare(scores: Iterable[Scored]) -> list[Comparison]:
    """The claim's own models against all others, benchmark by benchmark, judged together."""
    held = list(scores)
    pairs = [
        _pair(own, other)
        for own in held
        if own.score.own
        for other in held
        if not other.score.own and other.benchmark is own.benchmark
    ]
    return _adjusted(pairs)


def _pair(own: Scored, other: Scored) -> Comparison:
    gap = own.score.value - other.score.value
    widest = math.hypot(own.error, other.error)
    covariance = 2 * CORRELATION * own.least * other.least
    narrowest = math.sqrt(max(own.least**2 + other.least**2 - covariance, 0.0))
    return Comparison(
        first=own, second=other, gap=gap, error=widest, paired=narrowest, p=chance(gap, widest),
        closest=chance(gap, narrowest),
    )  # fmt: skip


def chance(gap: float, error: float) -> float:
    """Probability that two equal models differ by so much, up or down."""
    return math.erfc(abs(gap) / error / math.sqrt(2)) if error > 0 else float(gap == 0)


def _adjusted(pairs: list[Comparison]) -> list[Comparison]:
    """With p-values that hold for all of them together (Holm 1979)."""
    order = sorted(range(len(pairs)), key=lambda place: pairs[place].p)
    highest, adjusted = 0.0, {}
    for rank, place in enumerate(order):
        highest = max(highest, min((len(pairs) - rank) * pairs[place].p, 1.0))
        adjusted[place] = highest
    return [replace(pair, adjusted=adjusted[place]) for place, pair in enumerate(pairs)]
