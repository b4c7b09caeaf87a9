"""Draws from tempered and truncated distributions, without sorting the vocabulary.

The definition is that of `generate.Sampler`: in float64, sort the tokens, likeliest first and of equals the lowest id
first; keep what temperature, top-k, top-p and min-p leave; take the first token whose cumulative probability exceeds a
uniform number. `draw` finds that very token from a few hundred of the likeliest.

The token depends on real numbers only through comparisons, and rounding only matters where two sides nearly meet. So
the draw is made twice, with every comparison tilted by `SLACK` one way and then the other. The token's place in the
order grows with the tilt (more tokens kept and a higher point both move it back), so if both agree, any computation
whose relative error is below `SLACK` agrees too, the definition's own included: a sum of n float64 numbers errs by less
than n * 2^-53, which is 2e-11 for n = 163,840. Where they disagree (once in some hundred million draws), or where the
token lies far down the order, the definition itself is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from homegrown.generate import SamplingConfig, distribution

SLACK = 1e-9
FIRST = 256
"""Tokens in the first list: finding so many costs about as much as reading the row."""
CACHED = 128 * 1024
"""On the host, so many numbers of eight bytes are summed at once: what a core keeps close."""
GROWTH = 16
"""A list that was too short is followed by one so many times as long."""


def draw(rows: Tensor, configs: Sequence[SamplingConfig], points: Sequence[float]) -> list[int]:
    """A token for each row, which depends on nothing beside its row, settings and point.

    Args:
        rows: [N, V] float32 or float64; minus infinity for tokens that may not be drawn, else finite; not all infinite.
        configs: temperature above 0.
        points: uniform numbers in [0, 1).
    """
    tokens = [-1] * len(rows)
    left = list(range(len(rows)))
    for size in _sizes(rows.shape[1]):
        for place, head in zip(left, _heads(rows, left, size, configs), strict=True):
            tokens[place] = head.token(configs[place], points[place])
        left = [place for place in left if tokens[place] < 0]
        if not left:
            return tokens
    for place in left:
        tokens[place] = defined(rows[place], configs[place], points[place])
    return tokens


def defined(row: Tensor, config: SamplingConfig, point: float) -> int:
    """The token for logits [V] by definition; arguments as for `draw`."""
    allowed = (row > -torch.inf).nonzero()[:, 0]
    probs, order = distribution(row[allowed], config)
    heights = probs.cumsum(0)
    place = torch.searchsorted(heights, point * heights[-1], right=True).clamp(max=len(heights) - 1)
    return int(allowed[int(order[place])])


def _sizes(vocab: int) -> Iterator[int]:
    """Lengths of lists to try; none is near the whole vocabulary, unless that is small."""
    size = FIRST
    if vocab <= size * 4:
        yield vocab
    while size * 4 < vocab:
        yield size
        size *= GROWTH


@dataclass(frozen=True)
class _Head:
    """The likeliest K tokens of a row, in order.

    Attributes:
        tokens: [K] ids.
        heights: [K] sums, up to and with each token, of exp((logit - highest) / temperature).
        weights: [K] the terms of these sums.
        total: the sum over all tokens, if there are more than these and no top-k applies.
        whole: there are no more than these.
    """

    tokens: NDArray[np.int64]
    weights: NDArray[np.float64]
    heights: NDArray[np.float64]
    total: float
    whole: bool

    def token(self, config: SamplingConfig, point: float) -> int:
        """The token for a point, or -1 if it is further down or too close to the next one to tell."""
        low, high = self._place(config, point, -SLACK), self._place(config, point, SLACK)
        return int(self.tokens[low]) if 0 <= low == high else -1

    def _place(self, config: SamplingConfig, point: float, tilt: float) -> int:
        """Where the point falls with comparisons tilted; -1 if not among these."""
        kept, total, whole = len(self.tokens), self.total, self.whole
        if config.top_k and (whole or config.top_k <= kept):
            kept, whole = min(kept, config.top_k), True
        elif config.top_k:
            return -1
        if not kept:
            return -1
        if whole:
            total = self.heights[kept - 1]
        if config.top_p < 1:
            before = np.concatenate(([0.0], self.heights[: kept - 1]))
            cut = int(np.searchsorted(before, config.top_p * total * (1 + tilt), "left"))
            if cut == kept and not whole:
                return -1
            kept, total, whole = cut, self.heights[cut - 1], True
        if config.min_p > 0:
            cut = max(int((self.weights[:kept] >= config.min_p * (1 - tilt)).sum()), 1)
            if cut == kept and not whole:
                return -1
            kept, total = cut, self.heights[cut - 1]
        place = int(np.searchsorted(self.heights[:kept], point * total * (1 + tilt), "right"))
        return place if place < kept else -1


def _heads(rows: Tensor, left: Sequence[int], size: int, configs: Sequence[SamplingConfig]) -> Iterator[_Head]:
    chosen = rows if len(left) == len(rows) else rows[list(left)]
    top, ids = chosen.topk(size, dim=-1)
    values_NK, ids_NK = top.cpu().double().numpy(), ids.cpu().numpy()
    # topk may return any of several equal tokens: where a list ends among equals, these are left out of it.
    least_N = values_NK[:, -1] if size < rows.shape[1] else np.full(len(left), -np.inf)
    temperatures = [configs[place].temperature for place in left]
    summed = [index for index, place in enumerate(left) if least_N[index] > -np.inf and not configs[place].top_k]
    totals = dict(zip(summed, _totals(chosen, summed, temperatures), strict=True))
    for index, temperature in enumerate(temperatures):
        known = int((values_NK[index] > least_N[index]).sum())
        values, tokens = values_NK[index, :known], ids_NK[index, :known]
        order = np.lexsort((tokens, -values))
        with np.errstate(over="ignore"):
            weights = np.exp((values[order] - values_NK[index, 0]) / temperature)
        total = totals.get(index, 0.0)
        yield _Head(tokens[order], weights, weights.cumsum(), total, bool(least_N[index] == -np.inf))


def _totals(rows: Tensor, places: Sequence[int], temperatures: Sequence[float]) -> list[float]:
    """Of some rows [N, V], the sums of exp((logit - highest) / temperature)."""
    if not places:
        return []
    at_once = max(CACHED // rows.shape[1], 1) if rows.is_cpu else len(places)
    return [
        total
        for start in range(0, len(places), at_once)
        for total in _sums(rows, places[start : start + at_once], temperatures)
    ]


def _sums(rows: Tensor, places: Sequence[int], temperatures: Sequence[float]) -> list[float]:
    wide = rows[list(places)].to(rows.device if _has_float64(rows.device) else "cpu").double()
    scale = torch.tensor([temperatures[place] for place in places], dtype=torch.float64, device=wide.device)[:, None]
    sums: list[float] = (wide - wide.amax(-1, keepdim=True)).div_(scale).exp_().sum(-1).tolist()
    return sums


@lru_cache
def _has_float64(device: torch.device) -> bool:
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True
