"""Long ops run once per kind of call: what a call did, by itself, is replayed whenever one like it comes.

A dry run calls the same op on tensors of the same shapes many times, and some ops go through hundreds of chunks. Their
first call runs the implementation that a real run would use, forward and backward, beside the graph, and
notes what it computed, allocated, kept for its backward pass and sent; every call then repeats those notes.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from homegrown.ops import Span
from homegrown.ops.registry import Implementation, wrapping
from homegrown.ops.saved import recomputing, saving
from homegrown.train.dryrun.meter import Meter, Work

LONG = {
    "attention": "",
    "latent_attention": "",
    "select": "indexer",
    "indexer_loss": "indexer",
    "experts": "experts",
    "linear_cross_entropy": "head",
}
"""Ops that loop, and the component that each is, where it is one of its own."""


@contextmanager
def ops_once(meter: Meter) -> Iterator[None]:
    """Run a block in which every long op runs once per kind of call and is replayed from then on."""
    notes = Notes(meter)
    with wrapping("once", **{name: notes.wrap(name) for name in LONG}):
        yield


@dataclass(frozen=True)
class Made:
    """A tensor that an op made: shape, strides and dtype, and the size of its storage in bytes."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int

    @classmethod
    def like(cls, tensor: Tensor) -> Made:
        """What is needed to make such a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.untyped_storage().nbytes())

    def make(self) -> Tensor:
        """Make one."""
        base = torch.empty(self.nbytes // self.dtype.itemsize, dtype=self.dtype, device="meta")
        return base.as_strided(self.shape, self.stride)


@dataclass
class Facts:
    """What a call did.

    Attributes:
        forward, backward: its work.
        outputs: what it gave.
        differentiable: for each output, whether gradients flow through it.
        kept: sizes in bytes of the storages it made and kept for its backward pass, outputs apart.
        kept_inputs, kept_outputs: which of its input and output tensors it kept.
        kept_spans: which of its spans.
        gradients: for each input, its gradient, or `None`.
    """

    forward: Work
    backward: Work
    outputs: list[Made]
    spec: Any
    differentiable: list[bool]
    kept: list[int] = field(default_factory=list)
    kept_inputs: list[int] = field(default_factory=list)
    kept_outputs: list[int] = field(default_factory=list)
    kept_spans: list[int] = field(default_factory=list)
    gradients: list[Made | None] = field(default_factory=list)


class Notes:
    """Facts of all kinds of calls so far."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.facts: dict[Any, Facts] = {}

    def wrap(self, name: str) -> Callable[[Implementation], Implementation]:
        """The wrapper of one op."""

        def wrapper(implementation: Implementation) -> Implementation:
            def run(*args: Any, **kwargs: Any) -> Any:
                leaves, spec = tree_flatten((args, kwargs))
                if not all(leaf.is_meta for leaf in leaves if isinstance(leaf, Tensor)):
                    return implementation(*args, **kwargs)
                key = (name, str(spec), torch.is_grad_enabled(), recomputing(), *map(_fingerprint, leaves))
                if key not in self.facts:
                    self.facts[key] = _try(self.meter, implementation, leaves, spec)
                facts = self.facts[key]
                return tree_unflatten(list(self._replay(name, facts, leaves)), facts.spec)

            return run

        return wrapper

    def _replay(self, name: str, facts: Facts, leaves: list[Any]) -> tuple[Tensor, ...]:
        with self.meter.inside(LONG[name]):
            if any(facts.differentiable):
                tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
                spans = [leaf for leaf in leaves if isinstance(leaf, Span)]
                held = [spans[index] for index in facts.kept_spans]
                return _Replay.apply(self.meter, name, facts, held, *tensors)
            return _outputs(self.meter, name, facts)


def _outputs(meter: Meter, name: str, facts: Facts) -> tuple[Tensor, ...]:
    meter.repeat(facts.forward, name)
    with meter.memory.aside():
        return tuple(made.make() for made in facts.outputs)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, meter: Meter, name: str, facts: Facts, held: list[Any], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = _outputs(meter, name, facts)
        with meter.memory.aside():
            kept = [torch.empty(size, dtype=torch.uint8, device="meta") for size in facts.kept]
        ctx.save_for_backward(
            *kept, *(tensors[index] for index in facts.kept_inputs), *(outputs[index] for index in facts.kept_outputs)
        )
        flows = zip(outputs, facts.differentiable, strict=True)
        ctx.mark_non_differentiable(*(out for out, differentiable in flows if not differentiable))
        ctx.meter, ctx.name, ctx.facts, ctx.held = meter, name, facts, held
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        meter, facts = ctx.meter, ctx.facts
        held = ctx.saved_tensors  # under recomputation, what was kept is made here
        meter.repeat(facts.backward, ctx.name)
        with meter.memory.aside():
            made = tuple(gradient and gradient.make() for gradient in facts.gradients)
        del held
        return (None, None, None, None, *made)


class _Twin(torch.autograd.Function):
    """A tensor of the same kind in memory of its own, its gradient handed through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def _fingerprint(leaf: Any) -> Any:
    """What of an argument decides on the course of a call, hashable."""
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.requires_grad
    if isinstance(leaf, Span):
        return leaf.fingerprint
    return leaf


def _try(meter: Meter, implementation: Implementation, leaves: list[Any], spec: Any) -> Facts:
    """Run one call on tensors of its own, forward and backward, and note what it does.

    What it saves is dropped or kept as configured, but hooks of the graph around it do not see it.
    """
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    fresh = list(leaves)
    roots: dict[int, Tensor] = {}
    with saving(recomputing()):
        for place in places:
            like = leaves[place]
            twin = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="meta")
            if like.requires_grad and torch.is_grad_enabled():
                roots[place] = twin.requires_grad_()
                twin = _Twin.apply(twin)
            fresh[place] = twin
        spans = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Span)]
        for index in spans:
            fresh[index] = copy.copy(leaves[index])
        watched = [weakref.ref(fresh[index]) for index in spans]
        args, kwargs = tree_unflatten(fresh, spec)
        addresses = [fresh[place].untyped_storage()._cdata for place in places]
        before = set(meter.memory.storages())
        with meter.aside() as forward:
            result = implementation(*args, **kwargs)
    outputs, out_spec = tree_flatten(result)
    differentiable = [out.requires_grad for out in outputs]
    facts = Facts(forward, Work(), [Made.like(out) for out in outputs], out_spec, differentiable)
    if not any(differentiable):
        return facts
    made = [out.untyped_storage()._cdata for out in outputs]
    ends = [torch.autograd.graph.get_gradient_edge(out) for out in outputs if out.requires_grad]
    grads = [torch.empty_like(out) for out in outputs if out.requires_grad]
    passing = {grad.untyped_storage()._cdata for grad in grads}
    del result, outputs, args, kwargs, fresh, twin
    alive = meter.memory.storages()
    facts.kept = [size for key, size in alive.items() if key not in before | passing | set(made)]
    facts.kept_inputs = [index for index, key in enumerate(addresses) if key in alive]
    facts.kept_spans = [index for index, span in enumerate(watched) if span() is not None]
    facts.kept_outputs = [index for index, key in enumerate(made) if key in alive]
    with saving(recompute=False), meter.aside() as facts.backward:
        gradients = torch.autograd.grad(ends, list(roots.values()), grads, allow_unused=True)
    by_place = dict(zip(roots, gradients, strict=True))
    facts.gradients = [None if (grad := by_place.get(place)) is None else Made.like(grad) for place in places]
    return facts
