"""How tensors of a training state are called: `{parameter}@{start}:{stop}/{kind}` for pieces of parameters."""

from __future__ import annotations

import re
from typing import NamedTuple

_PIECE = re.compile(r"(?P<name>.+)@(?P<start>\d+):(?P<stop>\d+)/(?P<kind>[^/@]+)")


class Key(NamedTuple):
    """A piece of a parameter: its rows [start, stop) along dim 0, and what of it is stored.

    Attributes:
        kind: `master` (the float32 weights), `momentum`, `exp_avg`, `exp_avg_sq` or `step`.
    """

    name: str
    start: int
    stop: int
    kind: str

    @classmethod
    def parse(cls, text: str) -> Key | None:
        """The key that a tensor's name is, or `None` for other names (controllers, counters)."""
        match = _PIECE.fullmatch(text)
        return cls(match["name"], int(match["start"]), int(match["stop"]), match["kind"]) if match else None


def piece_key(name: str, start: int, stop: int, kind: str) -> str:
    """The name under which `kind` of rows [start, stop) of a parameter is stored."""
    return f"{name}@{start}:{stop}/{kind}"


def router_key(layer: int) -> str:
    """The name under which the correction bias of a layer's router is stored."""
    return f"router/{layer}"
