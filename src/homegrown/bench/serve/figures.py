"""Figures of a run, under the names that the usual tools give them (vLLM's `bench serve`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from homegrown.bench.serve.outcome import Outcome

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Slo:
    """What a good answer is. A bound of 0 is none.

    Attributes:
        ttft_ms: to the first token.
        tpot_ms: per token behind it, on average.
    """

    ttft_ms: float = 0.0
    tpot_ms: float = 0.0

    def met(self, outcome: Outcome) -> bool:
        """Whether an answer is good."""
        slow = self.ttft_ms and outcome.ttft * 1e3 > self.ttft_ms
        return outcome.ok and not slow and not (self.tpot_ms and (outcome.tpot or 0.0) * 1e3 > self.tpot_ms)

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds there are, by name."""
        return {name: bound for name, bound in (("ttft", self.ttft_ms), ("tpot", self.tpot_ms)) if bound}


def figures(outcomes: Sequence[Outcome], duration: float, slo: Slo | None = None) -> dict[str, Any]:
    """All figures of requests that ran within `duration` seconds.

    Times are in milliseconds in the names that end so: time to the first token (`ttft`), per token behind it (`tpot`),
    between pieces (`itl`) and between tokens (`token_itl`, see `Outcome.token_gaps`), to the last token (`e2el`).
    Failed requests count in `failed` and `errors_by_kind` alone.

    Args:
        outcomes: any number.
        duration: seconds.
        slo: what goodput counts.
    """
    slo = slo or Slo()
    good = [outcome for outcome in outcomes if outcome.ok]
    made = sum(outcome.completion_tokens for outcome in good)
    read = sum(outcome.prompt_tokens for outcome in good)
    within = sum(map(slo.met, good))
    return {
        "duration": duration,
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "errors_by_kind": dict(Counter(outcome.error for outcome in outcomes if outcome.error)),
        "short_answers": sum(outcome.completion_tokens < outcome.wanted for outcome in good),
        "total_input_tokens": read,
        "total_output_tokens": made,
        "request_throughput": _over(len(good), duration),
        "request_goodput": _over(within, duration) if slo.bounds else None,
        "goodput_share": _over(within, len(outcomes)) if slo.bounds else None,
        "output_throughput": _over(made, duration),
        "total_token_throughput": _over(read + made, duration),
        **_peaks(good),
        **_times(good),
        **_usage(good),
        "send_delay_p99_ms": percentile([outcome.sent - outcome.due for outcome in outcomes], 99) * 1e3,
    }


def series(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """What the figures are made of, one entry a request, in order of sending. Times are in seconds."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.sent)
    return {
        "input_lens": [outcome.prompt_tokens for outcome in ordered],
        "output_lens": [outcome.completion_tokens if outcome.ok else 0 for outcome in ordered],
        "cached_lens": [outcome.cached_tokens for outcome in ordered],
        "ttfts": [_digits(outcome.ttft) if outcome.ok else 0.0 for outcome in ordered],
        "itls": [[_digits(gap) for gap in outcome.gaps] if outcome.ok else [] for outcome in ordered],
        "start_times": [_digits(outcome.sent) for outcome in ordered],
        "e2els": [_digits(outcome.latency) if outcome.ok else 0.0 for outcome in ordered],
        "request_groups": [outcome.group for outcome in ordered],
        "request_turns": [outcome.turn for outcome in ordered],
        "errors": [f"{outcome.error}: {outcome.message}" if outcome.error else "" for outcome in ordered],
    }


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile with linear interpolation; 0 of nothing."""
    return float(np.percentile(values, share)) if len(values) else 0.0


def weighted_percentile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """The smallest value that, with all smaller ones, has `share` percent of the weight; 0 of nothing."""
    if not len(values):
        return 0.0
    order = np.argsort(values)
    reached = np.cumsum(np.asarray(weights, dtype=float)[order])
    place = int(np.searchsorted(reached, reached[-1] * share / 100 * (1 - 1e-12)))
    return float(np.asarray(values)[order][min(place, len(order) - 1)])


def spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Mean, median, deviation and percentiles in milliseconds, under the usual names."""
    values = np.asarray(seconds, dtype=float) * 1e3
    made = {
        f"mean_{name}_ms": float(values.mean()) if len(values) else 0.0,
        f"median_{name}_ms": percentile(values.tolist(), 50),
        f"std_{name}_ms": float(values.std()) if len(values) else 0.0,
    }
    return made | {f"p{share}_{name}_ms": percentile(values.tolist(), share) for share in PERCENTILES}


def _times(good: Sequence[Outcome]) -> dict[str, float]:
    tokens = [pair for outcome in good for pair in outcome.token_gaps]
    gaps, weights = [gap for gap, _ in tokens], [weight for _, weight in tokens]
    made = {
        **spread("ttft", [outcome.ttft for outcome in good]),
        **spread("tpot", [tpot for outcome in good if (tpot := outcome.tpot) is not None]),
        **spread("itl", [gap for outcome in good for gap in outcome.gaps]),
        **spread("e2el", [outcome.latency for outcome in good]),
        "mean_token_itl_ms": _over(sum(gap * weight for gap, weight in tokens), sum(weights)) * 1e3,
    }
    return made | {f"p{share}_token_itl_ms": weighted_percentile(gaps, weights, share) * 1e3 for share in PERCENTILES}


def _usage(good: Sequence[Outcome]) -> dict[str, Any]:
    read = sum(outcome.prompt_tokens for outcome in good)
    cached = sum(outcome.cached_tokens for outcome in good)
    accepted = sum(outcome.accepted for outcome in good)
    drafted = accepted + sum(outcome.rejected for outcome in good)
    pieces = sum(len(outcome.arrivals) for outcome in good)
    return {
        "cached_tokens": cached,
        "prefix_hit_rate": _over(cached, read),
        "prefix_hit_requests": sum(outcome.cached_tokens > 0 for outcome in good),
        "accepted_prediction_tokens": accepted,
        "rejected_prediction_tokens": drafted - accepted,
        "spec_decode_acceptance_rate": _over(accepted, drafted) if drafted else None,
        "tokens_per_chunk": _over(sum(outcome.completion_tokens for outcome in good), pieces),
        "chunk_tokens_told": bool(good) and all(outcome.sizes or not outcome.arrivals for outcome in good),
        "usage_told": all(outcome.usage for outcome in good),
    }


def _peaks(good: Sequence[Outcome]) -> dict[str, float]:
    """Most output tokens in any second, and most requests under way at once."""
    seconds: defaultdict[int, float] = defaultdict(float)
    for outcome in good:
        each = outcome.completion_tokens / len(outcome.arrivals) if outcome.arrivals else 0.0
        for moment in outcome.arrivals:
            seconds[int(moment)] += each
    changes = sorted([(outcome.sent, 1) for outcome in good] + [(outcome.ended, -1) for outcome in good])
    running = np.cumsum([change for _, change in changes]) if changes else np.zeros(1)
    return {
        "max_output_tokens_per_s": float(max(seconds.values(), default=0)),
        "max_concurrent_requests": int(running.max()),
    }


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _digits(seconds: float) -> float:
    return round(seconds, 6)
