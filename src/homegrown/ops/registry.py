"""One op, one signature, one reference; faster implementations register themselves beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from homegrown.config import ConfigError

OPS: dict[str, Op] = {}


class Op:
    """A named operation with interchangeable implementations.

    The reference is plain PyTorch under autograd and always legal. The implementation registered last is the
    default; `using` switches within a block, `table` says what is active.
    """

    def __init__(self, name: str, reference: Callable[..., Any]) -> None:
        self.name = name
        self.implementations: dict[str, Callable[..., Any]] = {"reference": reference}
        self.active = "reference"
        self.__doc__ = reference.__doc__
        OPS[name] = self

    def register(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator that adds an implementation of this op's signature and makes it the default."""

        def add(implementation: Callable[..., Any]) -> Callable[..., Any]:
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
        return self.implementations[self.active](*args, **kwargs)


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
