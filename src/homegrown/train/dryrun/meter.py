"""Counting what runs on meta tensors: FLOPs, bytes alive, and the moment when most of them are."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from homegrown.train.dryrun.wire import Message, Wires

KINDS = ("parameters", "gradients", "optimizer", "activations", "backward", "step")
"""What memory is for. activations: made by forward passes; backward: made while gradients are computed; step: made
outside of both."""
WHOLE = ("draft head",)
"""Components whose parts all count as themselves."""
PARTS = ("indexer", "experts")
"""Components that count as themselves inside others."""
PHASES = ("forward", "recompute", "backward", "step")


class Use(NamedTuple):
    """What memory or work belongs to: one of `KINDS` or `PHASES`, and a component of the model."""

    kind: str
    component: str


@dataclass
class Work:
    """What a stretch of code did.

    Attributes:
        flops: floating-point operations.
        rise: bytes by which memory rose above what it began with, at its highest.
        messages: collectives.
    """

    flops: int = 0
    rise: int = 0
    messages: list[Message] = field(default_factory=list)


class Meter(TorchDispatchMode):
    """Watches every operator of a block. Only tensors on the meta device are counted as memory.

    Attributes:
        flops: (use, operator) -> floating-point operations.
        messages: collectives, in order.
        alive: bytes by use, now.
        total: their sum.
        peak, at_peak: the largest sum so far, and what it was made of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[tuple[Use, str]] = Counter()
        self.messages: list[Message] = []
        self.alive: Counter[Use] = Counter()
        self.total = self.peak = 0
        self.at_peak: Counter[Use] = Counter()
        self._known: dict[int, _Storage] = {}
        self._within: list[str] = []
        self._marks: list[tuple[int, str]] = [(-1, "other")]
        self._stepping = False
        self._wires = Wires()

    # Where we are

    @property
    def phase(self) -> str:
        """The phase of training in progress. Modules that run during a backward pass are recomputed."""
        if torch._C._current_graph_task_id() != -1:
            return "recompute" if self._within else "backward"
        return "step" if self._stepping else "forward"

    @property
    def component(self) -> str:
        """The component in progress, or whose backward pass is; `other` between them."""
        if self._within:
            return self._within[-1]
        node = torch._C._current_autograd_node()
        if node is None:
            return "other"
        return self._marks[bisect_right(self._marks, node._sequence_nr(), key=_first) - 1][1]

    def enter(self, component: str = "") -> None:
        """A forward pass enters a component, or a part of the one it is in."""
        here = self._within[-1] if self._within else "other"
        enters = here == "other" or (component in PARTS and here not in WHOLE)
        self._within.append(component if component and enters else here)
        self._mark()

    def leave(self) -> None:
        """The end of what `enter` began."""
        self._within.pop()
        self._mark()

    @contextmanager
    def inside(self, component: str = "") -> Iterator[None]:
        """This block is part of a component's forward pass."""
        self.enter(component)
        try:
            yield
        finally:
            self.leave()

    def _mark(self) -> None:
        """From here on, nodes of the graph belong to the component in progress."""
        number = torch._C._autograd._get_sequence_nr()
        if self._marks[-1][0] == number:
            self._marks.pop()
        self._marks.append((number, self._within[-1] if self._within else "other"))

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """This block is the optimizer's step."""
        before, self._stepping = self._stepping, True
        try:
            yield
        finally:
            self._stepping = before

    # Memory

    def claim(self, tensors: Iterable[Tensor], kind: str, component: str) -> None:
        """Say what the memory of some tensors is for, from now on."""
        use = Use(kind, component)
        for tensor in tensors:
            for part in _parts(tensor):
                self._admit(part, use)
                storage = self._known[part.untyped_storage()._cdata]
                self.alive[storage.use] -= storage.size
                self.alive[use] += storage.size
                storage.use = use

    def bytes_of(self, kind: str) -> dict[str, int]:
        """Bytes alive of one kind, by component."""
        return {use.component: size for use, size in self.alive.items() if use.kind == kind and size}

    def storages(self) -> dict[int, int]:
        """Addresses and sizes of all storages alive."""
        return {key: storage.size for key, storage in self._known.items()}

    def _use(self) -> Use:
        kinds = {"forward": "activations", "recompute": "activations", "backward": "backward", "step": "step"}
        return Use(kinds[self.phase], self.component)

    def _admit(self, tensor: Tensor, use: Use | None = None) -> None:
        handle = tensor.untyped_storage()
        key = handle._cdata
        if key in self._known or tensor.device.type != "meta":
            return
        storage = _Storage(handle.nbytes(), use or self._use())
        storage.watch = weakref.ref(handle, lambda _: self._release(key))
        self._known[key] = storage
        self.alive[storage.use] += storage.size
        self.total += storage.size
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, Counter(self.alive)

    def _release(self, key: int) -> None:
        storage = self._known.pop(key)
        self.alive[storage.use] -= storage.size
        self.total -= storage.size

    # Work

    def repeat(self, work: Work, op: str) -> None:
        """Count what was measured before as done here, by `op`."""
        self.flops[Use(self.phase, self.component), op] += work.flops
        self.messages += work.messages
        if self.total + work.rise > self.peak:
            self.peak, self.at_peak = self.total + work.rise, Counter(self.alive)
            self.at_peak[self._use()] += work.rise

    @contextmanager
    def aside(self) -> Iterator[Work]:
        """Measure a block by itself: what it does is not counted here, but given."""
        work = Work()
        before = (self.flops, self.messages, self.peak, self.at_peak)
        started = self.total
        self.flops, self.messages, self.peak = Counter(), work.messages, started
        try:
            yield work
            work.flops = self.flops.total()
            work.rise = self.peak - started
        finally:
            self.flops, self.messages, self.peak, self.at_peak = before

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """What is made in this block counts as alive, but makes no peak: its rise was counted already."""
        peak, at_peak = self.peak, self.at_peak
        self.peak = 1 << 62
        try:
            yield
        finally:
            self.peak, self.at_peak = peak, at_peak

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if func.namespace == "c10d" and packet.__name__ != "barrier":
            self.messages.append(self._wires.read(func, args))
        stand_in = _STAND_INS.get(packet)
        out = stand_in(*args, **kwargs) if stand_in is not None and args[0].is_meta else func(*args, **kwargs)
        count = flop_registry.get(packet) or _COUNTS.get(packet)
        if count is not None:
            number = count(*args, **kwargs, out_val=out)
            self.flops[Use(self.phase, self.component), packet.__name__] += number
        for item in tree_leaves(out):
            if isinstance(item, Tensor):
                for part in _parts(item):
                    self._admit(part)
        return out


@dataclass
class _Storage:
    size: int
    use: Use
    watch: Any = None


def _first(mark: tuple[int, str]) -> int:
    return mark[0]


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a tensor is made of."""
    return (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,)


def _counted_values(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """`bincount` of numbers below `minlength`."""
    return x.new_empty((minlength,))


def _grouped_product(a: Tensor, b: Tensor, offs: Tensor, *rest: Any, **more: Any) -> Tensor:
    """Rows of a, each times its group's matrix of b; or, of two matrices, a product for each group of columns."""
    return a.new_empty((a.shape[0], b.shape[2]) if b.ndim == 3 else (offs.shape[0], a.shape[0], b.shape[1]))


def _grouped_flops(a: Tensor, b: Tensor, *rest: Any, out_val: Tensor, **more: Any) -> int:
    """Every row of the grouped side meets one group's matrix: 2 · rows · in · out."""
    if b.ndim == 3:
        return 2 * a.shape[0] * b.shape[1] * b.shape[2]
    return 2 * a.shape[1] * a.shape[0] * b.shape[1]


def _product_flops(a: Tensor, b: Tensor, *rest: Any, out_val: Tensor, **more: Any) -> int:
    return 2 * prod(a.shape) * (b.shape[1] if b.ndim > 1 else 1)


_STAND_INS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.bincount: _counted_values,
    torch.ops.aten._grouped_mm: _grouped_product,
}
"""What operators give on tensors without values where PyTorch does not say: the size depends on values, or its rules
are those of one kind of device."""

_COUNTS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._grouped_mm: _grouped_flops,
    torch.ops.aten.mv: _product_flops,
}
"""Products that PyTorch's own table leaves out."""
