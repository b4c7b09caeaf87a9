"""What autograd keeps for the backward pass: some values are cheaper to make again than to keep.

An op that makes such a value says how (`recomputable`, `remember`). That changes nothing by itself. Within `saving`,
whatever later ops save of the value is dropped, and made again by the same function from the same inputs, hence to the
same bits, when the backward pass asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Makes = Callable[..., Any]
"""Makes a tensor or a tuple of tensors from its arguments, always the same from the same."""


class Store(Protocol):
    """Where saved tensors are kept."""

    def put(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Keep a tensor; the result gives it back, as often as it is asked."""


class Here:
    """Tensors stay where they are."""

    def put(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Hold on to it."""
        return lambda: tensor


class _Recipe(NamedTuple):
    """How values were made. Inputs are held as saved tensors are: kept, or made again in their turn."""

    function: Makes
    inputs: tuple[Any, ...]


class _Again(NamedTuple):
    """A saved tensor that is to be made again: a view of one of the values that a recipe makes."""

    recipe: _Recipe
    number: int
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Kept(NamedTuple):
    """A saved tensor that is kept."""

    take: Callable[[], Tensor]


class _Saver:
    """Packs and unpacks what autograd saves in a pass."""

    def __init__(self, recompute: bool, store: Store) -> None:
        self.recompute, self._store = recompute, store
        # A weak reference to a storage also keeps its address from being given to another one.
        self._recipes: dict[StorageWeakRef, tuple[_Recipe, int]] = {}
        self._latest: tuple[_Recipe, tuple[Tensor, ...]] | None = None

    def remember(self, outputs: tuple[Tensor, ...], function: Makes, inputs: tuple[Any, ...]) -> None:
        storages = [StorageWeakRef(output.untyped_storage()) for output in outputs]
        given = [StorageWeakRef(item.untyped_storage()) for item in inputs if isinstance(item, Tensor)]
        recipe = _Recipe(
            function, tuple(self.pack(item.detach()) if isinstance(item, Tensor) else item for item in inputs)
        )
        for number, storage in enumerate(storages):
            # What is no more than another view of an input is saved as the input is.
            if storage not in given:
                self._recipes[storage] = (recipe, number)

    def forget(self) -> None:
        self._recipes.clear()

    def pack(self, tensor: Tensor) -> _Again | _Kept:
        known = self._recipes.get(StorageWeakRef(tensor.untyped_storage()))
        if known is None:
            return _Kept(self._store.put(tensor))
        return _Again(*known, tensor.shape, tensor.stride(), int(tensor.storage_offset()))

    def unpack(self, packed: _Again | _Kept) -> Tensor:
        if isinstance(packed, _Kept):
            return packed.take()
        value = self._make(packed.recipe)[packed.number]
        return value.as_strided(packed.shape, packed.stride, packed.offset)

    def _make(self, recipe: _Recipe) -> tuple[Tensor, ...]:
        # Several ops in a row save the same value, and one op several values of a recipe: the latest ones stay.
        if self._latest is None or self._latest[0] is not recipe:
            if not self._starts_from_latest(recipe):
                self._latest = None
            inputs = [self.unpack(item) if isinstance(item, _Again | _Kept) else item for item in recipe.inputs]
            with torch.no_grad():
                self._latest = (recipe, _tuple(recipe.function(*inputs)))
        return self._latest[1]

    def _starts_from_latest(self, recipe: _Recipe) -> bool:
        """Whether a recipe's inputs are among the values made last."""
        made = [item.recipe for item in recipe.inputs if isinstance(item, _Again)]
        return self._latest is not None and any(item is self._latest[0] for item in made)


_saver: _Saver | None = None


@contextmanager
def saving(recompute: bool, store: Store | None = None) -> Iterator[None]:
    """Run a forward pass in which saved tensors go where they should.

    Args:
        recompute: drop what ops have said how to make again.
        store: where the others are kept; `None` leaves them where they are.
    """
    global _saver
    before, _saver = _saver, _Saver(recompute, store or Here())
    try:
        with torch.autograd.graph.saved_tensors_hooks(_saver.pack, _saver.unpack):
            yield
    finally:
        _saver.forget()
        _saver = before


def recomputing() -> bool:
    """Whether values that can be made again are dropped."""
    return _saver is not None and _saver.recompute


def remember(outputs: Any, function: Makes, *inputs: Any) -> None:
    """Say that `function(*inputs)` makes `outputs`, a tensor or a tuple of tensors, at little cost."""
    if _saver is not None and _saver.recompute:
        _saver.remember(_tuple(outputs), function, inputs)


def recomputable(function: Makes, *inputs: Any) -> Any:
    """`function(*inputs)`, which will be made again rather than kept."""
    outputs = function(*inputs)
    remember(outputs, function, *inputs)
    return outputs


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
