"""Optimizer state by piece: its keys, and whether given state fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from torch import Tensor

from homegrown.optim.rules import Member
from homegrown.optim.slots import Slot
from homegrown.parallel.pieces import Piece


def state_of(members: Iterable[Member], frozen: Iterable[Slot]) -> dict[str, Tensor]:
    """Masters and state of all pieces in slots by `{parameter}@{first row}:{last row}/{kind}`, as views."""
    state: dict[str, Tensor] = {}
    for member in members:
        for slot in member.rule.slots:
            state |= _cut(slot, {"master": slot.master, **member.rule.state(slot)})
    for slot in frozen:
        state |= _cut(slot, {"master": slot.master})
    return state


def gradients_of(slots: Iterable[Slot]) -> dict[str, Tensor]:
    """Gradients of all pieces in slots that have one by `{parameter}@{first row}:{last row}`, dense."""
    found: dict[str, Tensor] = {}
    for slot in slots:
        if slot.gradient is not None:
            gradient = slot.gradient.to_dense() if slot.gradient.is_sparse else slot.gradient
            found |= dict(zip(_keys(slot), slot.cut(gradient), strict=True))
    return found


def faults_of(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps `given` from being copied into `own`, a phrase for each entry."""
    missing = [f"{key!r} is missing" for key in own if key not in given]
    unknown = [f"{key!r} is not part of it" for key in given if key not in own]
    misfits = [
        f"{key!r} is {_kind(given[key])}, not {_kind(own[key])}"
        for key in own
        if key in given and (given[key].shape != own[key].shape or given[key].dtype != own[key].dtype)
    ]
    return missing + unknown + misfits


def _cut(slot: Slot, kinds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"{key}/{kind}": piece
        for kind, tensor in kinds.items()
        for key, piece in zip(_keys(slot), tensor.unbind() if kind == "step" else slot.cut(tensor), strict=True)
    }


def _keys(slot: Slot) -> list[str]:
    return [Piece(slot.name, start, stop).key for start, stop in pairwise(slot.borders)]


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
