"""Large matrices in eight bits, put into a model from outside: stand-ins for the modules that hold them.

The model's forward pass stays as it is. What is not a large matrix, or decides which experts and keys are chosen, is
left alone: norms, routers, the indexer's keys and head weights, and the keys' and values' up-projection, which absorbed
attention takes apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homegrown import ops
from homegrown.model.layers import Linear, Words
from homegrown.model.longcat import Longcat
from homegrown.model.ngram import NgramEmbedding
from homegrown.model.router import Experts
from homegrown.ops import Int8

KEPT = ("router.classifier", "indexer.weights_proj", "indexer.wk", "kv_b_proj")
"""Linear maps that stay as they are."""


class Int8Weight(nn.Module):
    """A parameter in eight bits, under the parameter's name: `values` and `scale` are buffers.

    Args:
        weight: the integers and their scales.
        dtype: of the activations.
    """

    def __init__(self, weight: Int8, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("values", weight.values)
        self.register_buffer("scale", weight.scale)
        self.values: Tensor
        self.scale: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: torch.dtype) -> Int8Weight:
        """Room for a parameter [..., out, in], on the current default device."""
        scale = torch.empty(shape[:-1], dtype=ops.scale_dtype(dtype))
        return cls(Int8(torch.empty(shape, dtype=torch.int8), scale), dtype)

    @property
    def weight(self) -> Int8:
        """What ops take."""
        return Int8(self.values, self.scale)


class Int8Linear(nn.Module):
    """`Linear` in eight bits."""

    def __init__(self, weight: Int8Weight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return ops.int8_linear(x, self.weight.values, self.weight.scale)


class Int8Words(nn.Module):
    """`Words` in eight bits."""

    def __init__(self, weight: Int8Weight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] -> [..., H]."""
        return int8_lookup(self.weight, tokens)


class Int8Experts(nn.Module):
    """`Experts` in eight bits."""

    def __init__(self, gate_up_proj: Int8Weight, down_proj: Int8Weight) -> None:
        super().__init__()
        self.gate_up_proj = gate_up_proj
        self.down_proj = down_proj

    def forward(self, x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor) -> Tensor:
        """As `Experts`."""
        return ops.int8_experts(x_NH, index_NK, gate_NK, self.gate_up_proj.weight, self.down_proj.weight)


def int8_lookup(table: Int8Weight, ids: Tensor) -> Tensor:
    """Rows of a table in eight bits, widened once they are fetched."""
    return ops.int8_rows(table.weight, ids, table.dtype)


def quantise(model: Longcat, dtype: torch.dtype | None = None) -> Longcat:
    """Round a model's large matrices to eight bits, in place, one after the other.

    Args:
        model: for inference; what is rounded has no gradients any more, and cannot be saved.
        dtype: of activations and of what is not rounded; `None` keeps the model's.

    Raises:
        ValueError: a weight is not finite; the message names it.
    """
    kind = model.dtype if dtype is None else dtype

    def rounded(name: str, parameter: nn.Parameter) -> Int8Weight:
        try:
            return Int8Weight(ops.quantise(parameter.detach(), kind), kind)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    replace(model, rounded)
    return model.cast(kind)


def hollow(model: Longcat, dtype: torch.dtype) -> Longcat:
    """Make room for eight-bit matrices in a model without numbers (meta device), to be filled as they are read."""
    replace(model, lambda name, parameter: Int8Weight.empty(tuple(parameter.shape), dtype))
    return model


def is_quantised(model: nn.Module) -> bool:
    """Whether any of a model's weights are in eight bits."""
    return any(isinstance(module, Int8Weight) for module in model.modules())


def eight_bit_names(model: nn.Module) -> list[str]:
    """The parameters that are in eight bits, by the names they have in a model without."""
    return [name for name, module in model.named_modules() if isinstance(module, Int8Weight)]


def replace(model: Longcat, make: Callable[[str, nn.Parameter], Int8Weight]) -> None:
    """Replace every module that holds large matrices.

    Args:
        model: changed in place. Each parameter is let go before the next one is made.
        make: of a parameter's name and the parameter.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, NgramEmbedding):
            _replace_table(name, module, make)
        elif isinstance(module, Experts):
            parts = (make(f"{name}.{part}", getattr(module, part)) for part in ("gate_up_proj", "down_proj"))
            model.set_submodule(name, Int8Experts(*parts), strict=True)
        elif isinstance(module, Words):
            model.set_submodule(name, Int8Words(make(f"{name}.weight", module.weight)), strict=True)
        elif isinstance(module, Linear) and not name.endswith(KEPT):
            model.set_submodule(name, Int8Linear(make(f"{name}.weight", module.weight)), strict=True)


def _replace_table(name: str, module: NgramEmbedding, make: Callable[[str, nn.Parameter], Int8Weight]) -> None:
    made = make(f"{name}.table", module.table)
    del module.table
    module.add_module("table", made)
    module.lookup = int8_lookup  # type: ignore[assignment]  # a lookup takes whatever the table is


@dataclass(frozen=True)
class Footprint:
    """What some of a model's weights take.

    Attributes:
        numbers: how many there are.
        rounded: of these, in eight bits.
        wide_bytes: their size if none were.
        bytes: their size.
    """

    numbers: int = 0
    rounded: int = 0
    wide_bytes: int = 0
    bytes: int = 0

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.numbers + other.numbers,
            self.rounded + other.rounded,
            self.wide_bytes + other.wide_bytes,
            self.bytes + other.bytes,
        )


def footprints(model: nn.Module) -> dict[str, Footprint]:
    """What each parameter and buffer takes, by the name it has in a model without eight-bit weights."""
    found = {}
    eight_bit = {name: module for name, module in model.named_modules() if isinstance(module, Int8Weight)}
    for name, module in eight_bit.items():
        count, scales = module.values.numel(), module.scale
        size = count + scales.numel() * scales.element_size()
        found[name] = Footprint(count, count, count * module.dtype.itemsize, size)
    for name, tensor in model.state_dict().items():
        if name.rpartition(".")[0] not in eight_bit:
            size = tensor.numel() * tensor.element_size()
            found[name] = Footprint(tensor.numel(), 0, size, size)
    return found
