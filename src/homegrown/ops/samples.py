"""Inputs for every op, the same on all machines: drawn on the CPU from one seed. They tell devices apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown import ops
from homegrown.config import SparseConfig
from homegrown.ops import Span

BATCH, HEADS, NOPE, ROPE, VALUE, LATENT, EXPERTS, ZERO_EXPERTS, CHOICES = 2, 4, 32, 16, 32, 64, 8, 4, 3


@dataclass(frozen=True)
class Sample:
    """A call of a kernel.

    Attributes:
        kernel: its name; that of an op, if it is one.
        tensors: float32 inputs on the CPU, cast to the dtype under test and differentiated.
        call: of the cast inputs, on their device; other inputs are part of it.
    """

    kernel: str
    tensors: list[Tensor]
    call: Callable[..., Tensor]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Output, and the gradients of a fixed projection of it where it has any, where the inputs are.

        Args:
            inputs: `tensors` in the dtype and on the device under test.
        """
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        out = self.call(*leaves)
        if out.requires_grad:
            weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out.device, out.dtype)
            (out * weights).sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def samples(length: int) -> list[Sample]:
    """One sample for every registered op, and for the two kernels beside them that could depend on timing.

    Args:
        length: tokens a row; widths grow with it.
    """
    draw = _Draw()
    return [
        *_elementwise(draw, length), *_products(draw, length), *_grouped(draw, length), *_attention(draw, length),
        *_lookups(draw, length), *_int8(draw, length),
    ]  # fmt: skip


class _Draw:
    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(20)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def weight(self, *shape: int) -> Tensor:
        return self.normal(*shape) * shape[-1] ** -0.5

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self._generator)


def _elementwise(draw: _Draw, length: int) -> list[Sample]:
    width = 2 * length
    angle = draw.normal(length, 1, width // 2)

    def rotary(x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return ops.rotary(x, *(table.to(x.device, wide) for table in (angle.cos(), angle.sin())))

    return [
        Sample("rms_norm", [draw.normal(BATCH, length, width), draw.normal(width)], lambda *x: ops.rms_norm(*x, 1e-5)),
        Sample("swiglu", [draw.normal(BATCH, length, width), draw.normal(BATCH, length, width)], ops.swiglu),
        Sample("rotary", [draw.normal(BATCH, length, HEADS, width)], rotary),
    ]


def _products(draw: _Draw, length: int) -> list[Sample]:
    tokens, width, inner, vocab = BATCH * length, 2 * length, length, 8 * length
    target = draw.integers(vocab, tokens)
    target[::7] = -1  # left out of the loss
    index = draw.integers(EXPERTS + ZERO_EXPERTS, tokens, CHOICES)
    gate = draw.normal(tokens, CHOICES).softmax(-1)

    def experts(x: Tensor, gate: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
        return ops.experts(x, index.to(x.device), gate, w_in, w_out)

    def cross_entropy(x: Tensor, weight: Tensor) -> Tensor:
        return ops.linear_cross_entropy(x, weight, target.to(x.device))

    return [
        Sample("linear", [draw.normal(BATCH, length, width), draw.weight(inner, width)], ops.linear),
        Sample("linear_cross_entropy", [draw.normal(tokens, width), draw.weight(vocab, width)], cross_entropy),
        Sample(
            "experts",
            [
                draw.normal(tokens, width), gate, draw.weight(EXPERTS, 2, inner, width),
                draw.weight(EXPERTS, width, inner),
            ],
            experts,
        ),
    ]  # fmt: skip


def _grouped(draw: _Draw, length: int) -> list[Sample]:
    rows, width, inner = BATCH * length, 2 * length, length
    # Groups of all sizes, one without rows; the fast implementations have no gradients of their own.
    ends = torch.tensor([0, *(rows * group**2 // (EXPERTS - 1) ** 2 for group in range(1, EXPERTS))], dtype=torch.int32)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return ops.grouped_product(x.detach(), weight.detach(), ends.to(x.device))

    def outer(x: Tensor, y: Tensor) -> Tensor:
        return ops.grouped_outer(x.detach(), y.detach(), ends.to(x.device))

    return [
        Sample("grouped_product", [draw.normal(rows, width), draw.weight(EXPERTS, inner, width)], product),
        Sample("grouped_outer", [draw.normal(rows, inner), draw.normal(rows, width)], outer),
    ]


def _attention(draw: _Draw, length: int) -> list[Sample]:
    first = torch.zeros(BATCH, length, dtype=torch.int64)
    first[:, length // 3 :] = length // 3  # two documents a row
    scale = (NOPE + ROPE) ** -0.5

    def span(x: Tensor) -> Span:
        return Span.packed(first, x.device)

    def core(q: Tensor, kv: Tensor, rope: Tensor) -> Tensor:
        return ops.attention(q, kv, rope, span(q), scale)

    def latent(q: Tensor, cache: Tensor, kv_b: Tensor) -> Tensor:
        return ops.latent_attention(q, cache, kv_b, span(q), scale)

    def taught(q: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        queries, expanded, rope = (tensor.to(q.device, q.dtype) for tensor in (query, *keys))
        targets = ops.core_targets((queries, expanded, rope), span(q), scale, None)
        return ops.indexer_loss((q, key, weight), targets, span(q), None)

    query = draw.normal(BATCH, length, HEADS, NOPE + ROPE)
    keys = [draw.normal(BATCH, length, HEADS, NOPE + VALUE), draw.normal(BATCH, length, ROPE)]
    cached = [draw.normal(BATCH, length, LATENT + ROPE), draw.weight(HEADS, NOPE + VALUE, LATENT)]
    index = [draw.normal(BATCH, length, 2 * HEADS, ROPE), draw.normal(BATCH, length, ROPE)]
    heads = draw.normal(BATCH, length, 2 * HEADS)
    return [
        Sample("attention", [query, *keys], core),
        Sample("latent_attention", [query, *cached], latent),
        Sample("index_scores", [*index, heads], ops.index_scores),
        Sample("indexer_loss", [*index, heads / 8], taught),
    ]


def _lookups(draw: _Draw, length: int) -> list[Sample]:
    ids = draw.integers(length // 4, BATCH, length)  # each several times: its gradient is a sum
    config = SparseConfig(topk=length // 4, heads=HEADS, head_dim=ROPE, init_tokens=1, local_tokens=4)

    def embedding(table: Tensor) -> Tensor:
        return F.embedding(ids.to(table.device), table)

    def select(q: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        return ops.select(q, key, weight, Span.causal(BATCH, length, device=q.device), config)

    index = [
        draw.normal(BATCH, length, HEADS, ROPE),
        draw.normal(BATCH, length, ROPE),
        draw.normal(BATCH, length, HEADS),
    ]
    return [Sample("embedding", [draw.normal(length // 4, length)], embedding), Sample("select", index, select)]


def _int8(draw: _Draw, length: int) -> list[Sample]:
    tokens, width, inner = BATCH * length, 2 * length, length
    index = draw.integers(EXPERTS + ZERO_EXPERTS, tokens, CHOICES)
    gate = draw.normal(tokens, CHOICES).softmax(-1)
    matrices = [draw.weight(inner, width), draw.weight(EXPERTS, 2, inner, width), draw.weight(EXPERTS, width, inner)]

    def rounded(weight: Tensor, x: Tensor) -> ops.Int8:
        return ops.Int8(*(part.to(x.device) for part in ops.quantise(weight, x.dtype)))

    def linear(x: Tensor) -> Tensor:
        return ops.int8_linear(x.detach(), *rounded(matrices[0], x))

    def experts(x: Tensor) -> Tensor:
        weights = (rounded(matrix, x) for matrix in matrices[1:])
        return ops.int8_experts(x.detach(), index.to(x.device), gate.to(x.device), *weights)

    row = draw.normal(tokens, width)
    return [Sample("int8_linear", [row], linear), Sample("int8_experts", [row], experts)]
