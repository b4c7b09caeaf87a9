"""The structures of trunk.h, field by field, and the functions' types."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int64, c_void_p

SINGLE, BRAIN, BYTE = range(3)
"""Kinds of numbers: float32, bfloat16, eight-bit integers with a scale for each row."""


class Matrix(Structure):
    """Rows of numbers side by side; all zero where there is none."""

    _fields_ = (("at", c_void_p), ("scale", c_void_p), ("kind", c_int64))


_PROJECTIONS = ("q_a", "q_b", "kv_a", "kv_b", "out", "gate", "up", "down", "index_q", "index_k", "index_w")
_NORMS = ("before", "q_norm", "kv_norm", "after", "index_norm", "index_bias")


class Sublayer(Structure):
    """One attention and the dense network behind it."""

    _fields_ = (*((name, Matrix) for name in (*_PROJECTIONS, *_NORMS)), ("slot", c_int64))


class LayerOf(Structure):
    """Two sublayers and the mixture of experts."""

    _fields_ = (
        ("sublayers", Sublayer * 2),
        *((name, Matrix) for name in ("router", "expert_in", "expert_out", "router_bias", "correction")),
    )


class DraftOf(Structure):
    """The draft block."""

    _fields_ = (("block", Sublayer), *((name, Matrix) for name in ("join", "word_norm", "state_norm", "norm")))


_COUNTS = (
    "hidden", "heads", "q_width", "latent", "nope", "rope", "value", "dense", "experts", "zero", "chosen", "width",
    "identity", "normalise", "scale_zero", "index_heads", "index_width", "index_pairs", "budget", "sinks", "window",
    "count", "vocabulary", "key_kind",
)  # fmt: skip


class ModelOf(Structure):
    """Sizes, constants and weights."""

    _fields_ = (
        *((name, c_int64) for name in _COUNTS),
        ("rotary_factor", c_double),
        ("frequencies", c_void_p),
        *((name, c_float) for name in ("eps", "latent_eps", "index_eps", "gamma", "index_scale", "scale", "key_scale")),
        ("layers", POINTER(LayerOf)),
        ("drafts", POINTER(DraftOf)),
        ("norm", Matrix),
        ("head", Matrix),
    )


class RowOf(Structure):
    """A row: its sequence's pages and its position."""

    _fields_ = (("pages", c_void_p), ("position", c_int64))


class PassOf(Structure):
    """What a pass reads and writes."""

    _fields_ = (
        ("of", POINTER(ModelOf)),
        ("rows", POINTER(RowOf)),
        *((name, c_int64) for name in ("many", "page_size", "shift")),
        *((name, c_void_p) for name in ("latent", "index", "hidden", "previous", "output", "chosen", "counts")),
        *((name, c_void_p) for name in ("gates", "prob_sum", "selected", "selections")),
        *((name, c_int64) for name in ("widest", "given")),
        ("room", c_void_p),
    )


_ALL = (Matrix, Sublayer, LayerOf, DraftOf, ModelOf, RowOf, PassOf)


def sizes(library: ctypes.CDLL | None = None) -> list[int]:
    """Bytes of each structure: here, or in C."""
    if library is None:
        return [ctypes.sizeof(structure) for structure in _ALL]
    found = (c_int64 * len(_ALL))()
    library.native_sizes(found)
    return list(found)


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell a library its functions' types."""
    types = {
        "native_room": (c_int64, (POINTER(PassOf), c_void_p)),
        "native_trunk": (None, (POINTER(PassOf), c_void_p)),
        "native_draft": (None, (POINTER(PassOf), c_void_p)),
        "native_logits": (None, (POINTER(ModelOf), c_void_p, c_int64, c_void_p, c_void_p)),
        "native_most_rows": (c_int64, ()),
        "native_sizes": (None, (POINTER(c_int64),)),
        "team_new": (c_void_p, (c_int,)),
        "team_members": (c_int, (c_void_p,)),
        "team_free": (None, (c_void_p,)),
    }
    for name, (result, arguments) in types.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
