"""Values that are made again: when, how often, and that nothing but memory changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from homegrown import ops
from homegrown.ops import Span, recomputable, saving


class Maker:
    """Twice the input, and how often that was computed; refers to what it made without keeping it."""

    def __init__(self) -> None:
        self.calls = 0
        self.made: list[StorageWeakRef] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        out = x * 2
        self.made.append(StorageWeakRef(out.untyped_storage()))
        return out


def graph(maker: Callable[[Tensor], Tensor], x: Tensor, weights: list[Tensor]) -> Tensor:
    """Several products save the value, as a whole and in views."""
    y = recomputable(maker, x)
    products = [y @ weights[0], y[:, 1:] @ weights[1][1:], y.view(-1, 2, 2).transpose(1, 2).flatten(1) @ weights[2]]
    return torch.stack(products).square().sum()


def inputs() -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x, *weights = torch.randn(4, 4, 4, generator=generator, dtype=torch.float64).unbind(0)
    return x.requires_grad_(), [weight.requires_grad_() for weight in weights]


@pytest.mark.parametrize("recompute", [False, True])
def test_a_value_is_dropped_and_made_again(recompute):
    maker, (x, weights) = Maker(), inputs()
    with saving(recompute):
        loss = graph(maker, x, weights)
    assert maker.made[0].expired() == recompute
    assert maker.calls == 1
    loss.backward()
    assert maker.calls == (2 if recompute else 1), "ops in a row share what is made again"
    plain, others = inputs()
    graph(lambda value: value * 2, plain, others).backward()
    for found, expected in zip([x, *weights], [plain, *others], strict=True):
        assert torch.equal(found.grad, expected.grad)


def test_outside_nothing_is_dropped():
    maker, (x, weights) = Maker(), inputs()
    graph(maker, x, weights).backward()
    assert maker.calls == 1


def test_what_a_value_is_made_from_may_be_made_again_too():
    first, second, (x, weights) = Maker(), Maker(), inputs()
    with saving(True):
        loss = graph(second, recomputable(first, x), weights)
    assert first.made[0].expired()
    assert second.made[0].expired()
    loss.backward()
    assert (first.calls, second.calls) == (2, 2)
    plain, others = inputs()
    graph(lambda value: value * 4, plain, others).backward()
    assert torch.equal(x.grad, plain.grad)


def test_a_view_of_an_input_is_kept_as_the_input_is():
    """A function that hands its input on, as a cast to the same dtype does, makes nothing."""
    x, weights = inputs()
    with saving(True):
        y = recomputable(lambda value: value.view(2, 8), x * 1)
        (y.view(4, 4) @ weights[0]).sum().backward()
    assert torch.equal(weights[0].grad, x.detach().T @ torch.ones(4, 4, dtype=torch.float64))


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_attention(heads, batch):
    """Keys and values are made again from the latents, whether laying them out copies them or not."""
    generator = torch.Generator().manual_seed(1)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    q, latent, rope, kv_b = leaf(batch, 9, heads, 6), leaf(batch, 9, 5), leaf(batch, 9, 2), leaf(heads, 7, 5)
    leaves = [q, latent, rope, kv_b]
    gradients = []
    for recompute in (False, True):
        with saving(recompute):
            out = ops.attention(q, ops.expand_keys(latent, kv_b), rope, Span.causal(batch, 9), 0.3)
        gradients.append(torch.autograd.grad(out.square().sum(), leaves))
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
