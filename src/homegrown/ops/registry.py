"""One op, one signature, one reference; faster implementations register themselves beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from homegrown.config import ConfigError
from homegrown.ops.saved import recomputable

Implementation = Callable[..., Any]

OPS: dict[str, Op] = {}


class Op:
    """A named operation with interchangeable implementations.

    The reference is plain PyTorch under autograd and always legal. The implementation registered last is the
    default; `using` switches within a block, `table` says what is active.

    Args:
        name: of the op.
        reference: its first implementation.
        cheap: its result costs less to make again than to keep, see `saved`.
    """

    def __init__(self, name: str, reference: Implementation, *, cheap: bool = False) -> None:
        self.name, self.cheap = name, cheap
        self.implementations: dict[str, Implementation] = {"reference": reference}
        self.active = "reference"
        self.__doc__ = reference.__doc__
        OPS[name] = self

    def register(self, name: str) -> Callable[[Implementation], Implementation]:
        """Decorator that adds an implementation of this op's signature and makes it the default."""

        def add(implementation: Implementation) -> Implementation:
            self.implementations[name] = implementation
            self.active = name
            return implementation

        return add

    def use(self, name: str) -> None:
        """Make `name` the active implementation; the error lists those there are."""
        if name not in self.implementations:
            raise ConfigError(
                f"op {self.name!r} has no implementation {name!r}; it has: {', '.join(self.implementations)}"
            )
        self.active = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the active implementation."""
        implementation = self.implementations[self.active]
        if self.cheap:
            return recomputable(partial(implementation, **kwargs) if kwargs else implementation, *args)
        return implementation(*args, **kwargs)


def table() -> dict[str, str]:
    """Op name -> active implementation, for the line a run prints at its start."""
    return {name: op.active for name, op in sorted(OPS.items())}


@contextmanager
def using(**choices: str) -> Iterator[None]:
    """Run a block with other implementations: `with using(attention="reference"): ...`."""
    before = {name: OPS[name].active for name in choices}
    try:
        for name, choice in choices.items():
            OPS[name].use(choice)
        yield
    finally:
        for name, choice in before.items():
            OPS[name].active = choice


@contextmanager
def wrapping(suffix: str, **wrappers: Callable[[Implementation], Implementation]) -> Iterator[None]:
    """Run a block with ops' active implementations wrapped; `table` shows them as `name + suffix`."""
    added = {name: f"{OPS[name].active} {suffix}" for name in wrappers}
    try:
        for name, wrap in wrappers.items():
            OPS[name].implementations[added[name]] = wrap(OPS[name].implementations[OPS[name].active])
        with using(**added):
            yield
    finally:
        for name, choice in added.items():
            OPS[name].implementations.pop(choice, None)
