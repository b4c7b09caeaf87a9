"""Decoding of one sequence: a prompt in chunks, then token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from homegrown import ops
from homegrown.generate.sampling import Sampler
from homegrown.model import Cache, CachedContext, Longcat, Trunk
from homegrown.model.native import Keys, NativeModel, Rows, native

PREFILL_CHUNK = 512
"""Prompt tokens in one pass."""


def empty_cache(model: Longcat, capacity: int) -> Cache:
    """Room for one sequence of `capacity` tokens, where the model is and in its dtype."""
    weight = model.norm.weight
    return Cache.empty(model.config, 1, capacity, weight.device, weight.dtype)


def as_row(tokens: Sequence[int], device: torch.device) -> Tensor:
    """Tokens as int64 [1, S]."""
    return torch.tensor([tokens], dtype=torch.int64, device=device)


@torch.inference_mode()
def extend(model: Longcat, cache: Cache, tokens: Tensor, prefill: bool = False) -> Trunk:
    """Run new tokens, int64 [1, S], behind those in the cache, and keep them there.

    Each is computed as if it came alone where the model has a native side, but for those of a prompt.
    """
    side = native(model)
    if side is not None and not prefill:
        trunk = extend_natively(side, model, cache, tokens)
        cache.length += tokens.shape[1]
        return trunk
    context = CachedContext(model.config, cache, tokens.shape[1], cache.latent[0].dtype, prefill=prefill)
    trunk = model.trunk(tokens, context)
    context.commit()
    return trunk


def extend_natively(side: NativeModel, model: Longcat, cache: Cache, tokens: Tensor) -> Trunk:
    """Run new tokens, int64 [1, S], behind those in the cache, whose length stays."""
    count = tokens.shape[1]
    context = CachedContext(model.config, cache, count, cache.latent[0].dtype)
    with ops.row_by_row():
        hidden = model.embed(tokens, context)
    return side.trunk(hidden, [Rows(cache.length, count, [0])], Keys(cache.latent, cache.index, cache.capacity))


def prefill(model: Longcat, cache: Cache, prompt: Tensor, chunk: int) -> Iterator[Trunk]:
    """Run a prompt, int64 [1, S], in chunks of at most `chunk` tokens; what came of each."""
    for part in prompt.split(chunk, dim=1):
        yield extend(model, cache, part, prefill=True)


@torch.inference_mode()
def last_logits(model: Longcat, output: Tensor) -> Tensor:
    """Logits [V] behind the last of the final states [1, S, H]."""
    side = native(model, look=False)
    return (model if side is None else side).logits(output[:, -1:])[0, 0]


def decode(model: Longcat, prompt: Sequence[int], sampler: Sampler, limit: int, chunk: int) -> Iterator[int]:
    """At most `limit` tokens behind a prompt, one pass of one row each.

    Args:
        model: what to run.
        prompt: token ids, at least one.
        sampler: chooses each token from the logits.
        limit: tokens at most; nothing else ends the iteration.
        chunk: prompt tokens in one pass.
    """
    device = model.norm.weight.device
    cache = empty_cache(model, len(prompt) + limit)
    for trunk in prefill(model, cache, as_row(prompt, device), chunk):
        last = trunk
    token = sampler(last_logits(model, last.output))
    yield token
    for _ in range(limit - 1):
        token = sampler(last_logits(model, extend(model, cache, as_row([token], device)).output))
        yield token
