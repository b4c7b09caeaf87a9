"""Core attention in its absorbed form: queries are carried into the latent space, keys and values stay compressed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from homegrown.ops.attention import chunks, hidden_keys
from homegrown.ops.registry import Op
from homegrown.ops.saved import recomputable
from homegrown.ops.span import Span

# Shape suffixes: B batch, S queries, T keys, h heads, N nope, R rope, V value width, L latent width, K selected keys.


def _latent_attention(
    q_BShD: Tensor,
    cache_BTLR: Tensor,
    kv_b_hNVL: Tensor,
    span: Span,
    scale: float,
    selected_BSK: Tensor | None = None,
) -> Tensor:
    """Attention over compressed keys: algebraically the attention of `attention`, without expanding any key.

    With W_uk and W_uv the key and value rows of kv_b: q̃ = W_ukᵀ q_nope, score = scale · (q̃ · c + q_rope · k_rope),
    out = W_uv Σ p c (arXiv 2405.04434 section 2.1).

    Args:
        q_BShD: queries, rope lanes (last R) rotated.
        cache_BTLR: per key, the normalised latent (L) and the rotated shared key (R).
        kv_b_hNVL: the up-projection, per head N key rows then V value rows.
        span: the interval of keys each query sees.
        scale: softmax scale τ.
        selected_BSK: chosen key positions (−1 unused): each query then reads K cache rows, whatever T is.

    Returns:
        [B, S, h, V]. Memory grows with S · min(T, K) per chunk, never with S · T as a whole.
    """
    latent = kv_b_hNVL.shape[2]
    nope = q_BShD.shape[3] - (cache_BTLR.shape[2] - latent)
    q_latent = torch.einsum("bshn,hnl->bshl", q_BShD[..., :nope], kv_b_hNVL[:, :nope])
    query = torch.cat((q_latent, q_BShD[..., nope:]), dim=-1)
    keys = cache_BTLR.shape[1] if selected_BSK is None else selected_BSK.shape[2] * cache_BTLR.shape[2]
    outs = []
    for start, stop in chunks(span, query.shape[0] * query.shape[2] * keys):
        if selected_BSK is None:
            outs.append(_dense_chunk(query, cache_BTLR, span, scale, start, stop, latent))
        elif torch.is_grad_enabled():
            # Gathered keys are large and cheap to gather again.
            chunk = checkpoint(
                _sparse_chunk,
                query[:, start:stop], cache_BTLR, selected_BSK[:, start:stop], scale, latent,
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
            outs.append(chunk)
        else:
            outs.append(_sparse_chunk(query[:, start:stop], cache_BTLR, selected_BSK[:, start:stop], scale, latent))
    return torch.einsum("bshl,hvl->bshv", torch.cat(outs, dim=1), kv_b_hNVL[:, nope:])


latent_attention = Op("latent_attention", _latent_attention)


def expand_keys(latent_BTL: Tensor, kv_b_hNVL: Tensor) -> Tensor:
    """Compressed keys expanded for `attention`: per head the nope key and the value, [B, T, h, N + V].

    They are many times larger than the latents they come from, and made again rather than kept where that is wanted.
    """
    return recomputable(_expand, latent_BTL, kv_b_hNVL)


def _expand(latent_BTL: Tensor, kv_b_hNVL: Tensor) -> Tensor:
    return (latent_BTL @ kv_b_hNVL.flatten(0, 1).T).unflatten(-1, kv_b_hNVL.shape[:2])


def _dense_chunk(query: Tensor, cache: Tensor, span: Span, scale: float, start: int, stop: int, latent: int) -> Tensor:
    low, high = span.bounds(start, stop)
    batch, _, heads, width = query.shape
    keys = cache[:, low:high]
    flat = query[:, start:stop].reshape(batch, (stop - start) * heads, width)
    scores = torch.bmm(flat, keys.transpose(1, 2)).view(batch, stop - start, heads, high - low) * scale
    hidden = hidden_keys(span, start, stop, low, high, None)
    wide = torch.promote_types(scores.dtype, torch.float32)
    probs = scores.masked_fill(hidden[:, :, None], -torch.inf).softmax(-1, dtype=wide).to(scores.dtype)
    return torch.bmm(probs.view(batch, -1, high - low), keys[..., :latent]).view(batch, stop - start, heads, latent)


def _sparse_chunk(query: Tensor, cache: Tensor, selected: Tensor, scale: float, latent: int) -> Tensor:
    batch, count, chosen = selected.shape
    index = selected.clamp(min=0).view(batch, -1, 1).expand(-1, -1, cache.shape[2])
    keys = cache.gather(1, index).view(batch, count, chosen, -1)
    scores = torch.matmul(query, keys.transpose(2, 3)) * scale
    wide = torch.promote_types(scores.dtype, torch.float32)
    probs = scores.masked_fill((selected < 0)[:, :, None], -torch.inf).softmax(-1, dtype=wide).to(scores.dtype)
    return torch.matmul(probs, keys[..., :latent])
