"""What a scenario is about beyond the usual figures: prefixes, turns, and the pace of streams beside a long prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from homegrown.bench.serve.figures import percentile, spread
from homegrown.bench.serve.outcome import Outcome
from homegrown.bench.serve.sessions import COLD, HIT, LONG


def by_new_tokens(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Time to the first token by how much of the prompt had to be computed.

    One row for each number of tokens (rounded to 16) that were not in the prefix cache, and group.
    """

    def key(outcome: Outcome) -> tuple[str, int]:
        return outcome.group, round((outcome.prompt_tokens - outcome.cached_tokens) / 16) * 16

    chosen = [outcome for outcome in outcomes if outcome.ok and outcome.group in (HIT, COLD)]
    return [
        {
            "group": group,
            "new_tokens": new,
            "requests": len(some),
            "median_prompt_tokens": percentile([outcome.prompt_tokens for outcome in some], 50),
            "median_cached_tokens": percentile([outcome.cached_tokens for outcome in some], 50),
            **spread("ttft", [outcome.ttft for outcome in some]),
        }
        for (group, new), some in _grouped(chosen, key)
    ]


def ttft_line(outcomes: Sequence[Outcome]) -> dict[str, float] | None:
    """Least squares of the time to the first token over new tokens, of requests that found their prefix.

    Returns:
        `ms_per_new_token`, `ms_at_zero` and `r2`; `None` where there are no two different numbers of new tokens.
    """
    hits = [outcome for outcome in outcomes if outcome.ok and outcome.group == HIT]
    new = np.array([outcome.prompt_tokens - outcome.cached_tokens for outcome in hits], dtype=float)
    if len(set(new.tolist())) < 2:
        return None
    ttft = np.array([outcome.ttft * 1e3 for outcome in hits])
    slope, at_zero = np.polyfit(new, ttft, 1)
    left = ttft - (slope * new + at_zero)
    around = float(((ttft - ttft.mean()) ** 2).sum())
    r2 = 1 - float((left**2).sum()) / around if around else 1.0
    return {"ms_per_new_token": float(slope), "ms_at_zero": float(at_zero), "r2": r2}


def by_turn(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """How turns of growing conversations fare: one row for each turn."""
    chosen = [outcome for outcome in outcomes if outcome.ok and outcome.group != LONG]
    return [
        {
            "turn": turn,
            "requests": len(some),
            "median_prompt_tokens": percentile([outcome.prompt_tokens for outcome in some], 50),
            "median_cached_tokens": percentile([outcome.cached_tokens for outcome in some], 50),
            **spread("ttft", [outcome.ttft for outcome in some]),
            **spread("tpot", [outcome.tpot for outcome in some if outcome.tpot is not None]),
        }
        for turn, some in _grouped(chosen, lambda outcome: outcome.turn)
    ]


def pace(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Gaps of all other streams before, during and after the prefill of the long prompt.

    A gap belongs to the phase in which it ended.
    """
    long = next((outcome for outcome in outcomes if outcome.group == LONG and outcome.ok), None)
    if long is None or not long.arrivals:
        return []
    others = [outcome for outcome in outcomes if outcome.group != LONG and outcome.ok]
    ends = max(outcome.ended for outcome in outcomes)
    phases = {"before": (0.0, long.sent), "during": (long.sent, long.arrivals[0]), "after": (long.arrivals[0], ends)}
    return [_phase(name, others, start, stop) for name, (start, stop) in phases.items()]


def _phase(name: str, others: Sequence[Outcome], start: float, stop: float) -> dict[str, Any]:
    gaps: list[float] = []
    tokens = 0.0
    for outcome in others:
        inside = [start <= moment < stop for moment in outcome.arrivals]
        gaps += [gap for gap, here in zip(outcome.gaps, inside[1:], strict=False) if here]
        tokens += outcome.completion_tokens * sum(inside) / max(len(inside), 1)
    return {
        "phase": name,
        "seconds": stop - start,
        "gaps": len(gaps),
        "output_throughput": tokens / (stop - start) if stop > start else 0.0,
        "max_itl_ms": max(gaps, default=0.0) * 1e3,
        **spread("itl", gaps),
    }


def _grouped(outcomes: Iterable[Outcome], key: Callable[[Outcome], Any]) -> list[tuple[Any, list[Outcome]]]:
    return [(value, list(some)) for value, some in groupby(sorted(outcomes, key=key), key)]
