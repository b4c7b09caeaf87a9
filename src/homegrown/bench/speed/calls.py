"""A call of every op at the sizes that a model gives it, with what it needs at least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown import ops
from homegrown.config import ModelConfig, SparseConfig
from homegrown.ops import Span

INDEXED = SparseConfig(topk=512, heads=4, head_dim=32, init_tokens=4, local_tokens=128)
"""Indexer of shapes that have none: the quickstart's."""


@dataclass(frozen=True)
class Call:
    """One op, called.

    Attributes:
        op: its name.
        inputs: what is differentiated, in the dtype that is measured, on the device.
        run: the op on `inputs`.
        flops: of the forward pass, products only.
        other: bytes beside the inputs and the output that must be read or written.
        backward: FLOPs of the backward pass over those of the forward pass; 0 where there is none.
    """

    op: str
    inputs: list[Tensor]
    run: Callable[..., Tensor]
    flops: float
    other: float = 0.0
    backward: float = 2.0

    @property
    def bytes(self) -> float:
        """Of the inputs, and what else must move."""
        return self.other + sum(tensor.numel() * tensor.element_size() for tensor in self.inputs)


def calls(config: ModelConfig, tokens: int, dtype: torch.dtype, device: torch.device) -> list[Call]:
    """A call of every op in `ops.OPS`, for one row of so many tokens.

    Args:
        config: whose sizes.
        tokens: of the row. Attention is causal over all of them.
        dtype, device: of the inputs.
    """
    draw = _Draw(dtype, device)
    return [
        *_elementwise(config, tokens, draw), *_products(config, tokens, draw), *_experts(config, tokens, draw),
        *_attention(config, tokens, draw), *_indexing(config, tokens, draw), *_int8(config, tokens, draw),
    ]  # fmt: skip


class _Draw:
    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self.dtype, self.device = dtype, device

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=self._generator) * scale).to(self.device, self.dtype)

    def weight(self, *shape: int) -> Tensor:
        return self(*shape, scale=shape[-1] ** -0.5)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self._generator).to(self.device)

    def choices(self, high: int, rows: int, count: int) -> Tensor:
        """Different numbers in each row, as a router chooses."""
        return torch.rand(rows, high, generator=self._generator).topk(count).indices.to(self.device)


def _elementwise(config: ModelConfig, tokens: int, draw: _Draw) -> list[Call]:
    hidden, heads, rope = config.hidden_size, config.num_attention_heads, config.qk_rope_head_dim
    wide = torch.promote_types(draw.dtype, torch.float32)
    cos, sin = (draw(1, tokens, 1, rope // 2).to(wide) for _ in range(2))
    gates = [draw(1, tokens, config.ffn_hidden_size) for _ in range(2)]
    return [
        Call("rms_norm", [draw(1, tokens, hidden), draw(hidden)], lambda x, w: ops.rms_norm(x, w, 1e-5), 0),
        Call("swiglu", gates, ops.swiglu, 0),
        Call("rotary", [draw(1, tokens, heads, rope)], lambda x: ops.rotary(x, cos, sin), 0),
    ]


def _products(config: ModelConfig, tokens: int, draw: _Draw) -> list[Call]:
    hidden, width, vocab = config.hidden_size, config.ffn_hidden_size, config.vocab_size
    target = draw.integers(vocab, tokens)
    return [
        Call("linear", [draw(1, tokens, hidden), draw.weight(width, hidden)], ops.linear, 2 * tokens * hidden * width),
        Call(
            "linear_cross_entropy",
            [draw(tokens, hidden), draw.weight(vocab, hidden)],
            lambda x, w: ops.linear_cross_entropy(x, w, target),
            2 * tokens * hidden * vocab,
        ),
    ]


def _experts(config: ModelConfig, tokens: int, draw: _Draw) -> list[Call]:
    number, width, hidden = config.n_routed_experts, config.expert_ffn_hidden_size, config.hidden_size
    index, gate = _routed(config, tokens, draw)
    rows = int((index < number).sum())
    sizes = torch.bincount(index[index < number], minlength=number)
    ends = sizes.cumsum(0).to(torch.int32)
    return [
        Call(
            "experts",
            [draw(tokens, hidden), gate, draw.weight(number, 2, width, hidden), draw.weight(number, hidden, width)],
            lambda x, gate, w_in, w_out: ops.experts(x, index, gate, w_in, w_out),
            2 * rows * 3 * width * hidden,
        ),
        Call(
            "grouped_product",
            [draw(rows, hidden), draw.weight(number, width, hidden)],
            lambda x, w: ops.grouped_product(x, w, ends),
            2 * rows * hidden * width,
            backward=0,
        ),
        Call(
            "grouped_outer",
            [draw(rows, width), draw(rows, hidden)],
            lambda a, b: ops.grouped_outer(a, b, ends),
            2 * rows * hidden * width,
            backward=0,
        ),
    ]


def _routed(config: ModelConfig, tokens: int, draw: _Draw) -> tuple[Tensor, Tensor]:
    choices = config.n_routed_experts + config.zero_expert_num
    index = draw.choices(choices, tokens, config.moe_topk)
    return index, draw(tokens, config.moe_topk).float().softmax(-1)


def _attention(config: ModelConfig, tokens: int, draw: _Draw) -> list[Call]:
    heads, nope, rope = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
    value, latent = config.v_head_dim, config.kv_lora_rank
    span, scale = Span.causal(1, tokens, device=draw.device), config.qk_head_dim**-0.5
    pairs = tokens * (tokens + 1) / 2 * heads
    query = draw(1, tokens, heads, nope + rope)
    cache, kv_b = draw(1, tokens, latent + rope), draw.weight(heads, nope + value, latent)
    return [
        Call(
            "attention",
            [query, draw(1, tokens, heads, nope + value), draw(1, tokens, rope)],
            lambda q, kv, key: ops.attention(q, kv, key, span, scale),
            2 * pairs * (nope + rope + value),
        ),
        Call(
            "latent_attention",
            [query, cache, kv_b],
            lambda q, cache, kv_b: ops.latent_attention(q, cache, kv_b, span, scale),
            2 * pairs * (2 * latent + rope) + 2 * tokens * heads * latent * (nope + value),
        ),
    ]


def _indexing(config: ModelConfig, tokens: int, draw: _Draw) -> list[Call]:
    sparse = config.sparse if config.sparse.topk else INDEXED
    heads, width = sparse.heads, sparse.head_dim
    span = Span.causal(1, tokens, device=draw.device)
    inputs = [draw(1, tokens, heads, width), draw(1, tokens, width), draw(1, tokens, heads)]
    core = [
        draw(1, tokens, config.num_attention_heads, config.qk_head_dim),
        draw(1, tokens, config.num_attention_heads, config.qk_nope_head_dim + config.v_head_dim),
        draw(1, tokens, config.qk_rope_head_dim),
    ]
    targets = ops.core_targets((core[0], core[1], core[2]), span, config.qk_head_dim**-0.5, None)

    def taught(q: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        loss: Tensor = ops.indexer_loss((q, key, weight), targets, span, None)
        return loss

    pair = 2 * heads * (width + 1)
    seen = tokens * (tokens + 1) / 2
    asked = 2 * config.num_attention_heads * config.qk_head_dim
    return [
        Call("index_scores", inputs, ops.index_scores, pair * tokens**2),
        Call("select", inputs, lambda *x: ops.select(*x, span, sparse), pair * seen, backward=0),
        Call("indexer_loss", inputs, taught, (pair + asked) * seen, _size(core)),
    ]


def _int8(config: ModelConfig, tokens: int, draw: _Draw) -> list[Call]:
    number, width, hidden = config.n_routed_experts, config.expert_ffn_hidden_size, config.hidden_size
    index, gate = _routed(config, tokens, draw)
    dense, w_in, w_out = (
        ops.Int8(*ops.quantise(draw.weight(*shape), draw.dtype))
        for shape in ((config.ffn_hidden_size, hidden), (number, 2, width, hidden), (number, hidden, width))
    )
    rows = int((index < number).sum())
    return [
        Call(
            "int8_linear",
            [draw(tokens, hidden)],
            lambda x: ops.int8_linear(x, *dense),
            2 * tokens * hidden * config.ffn_hidden_size,
            _size(dense),
            backward=0,
        ),
        Call(
            "int8_experts",
            [draw(tokens, hidden)],
            lambda x: ops.int8_experts(x, index, gate, w_in, w_out),
            2 * rows * 3 * width * hidden,
            _size((*w_in, *w_out)),
            backward=0,
        ),
    ]


def _size(tensors: Sequence[Tensor]) -> float:
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
