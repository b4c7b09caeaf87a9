"""Model growth: a deep model begun from a trained shallow one by stacking its layers (arXiv 2509.01322 section 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from homegrown.config import ConfigError, ModelConfig, require
from homegrown.model import Longcat

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


def grow(source: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The state dict with which a model of `config` begins, from that of the same model with fewer layers.

    With L source layers and r L target layers these are l1..lL, l1..lL, ... (r times); everything outside the layers
    is taken as it is.

    Args:
        source: state dict of the trained model.
        config: the grown model.

    Returns:
        A state dict for `Longcat(config)`. It shares the source's tensors, repeated layers share one: load it into a
        model, do not train on it.

    Raises:
        ConfigError: the source's layers do not divide the target's, or a tensor is missing, unknown or of another
            shape than the target has.
    """
    depth = layer_count(source)
    require(
        depth > 0 and config.num_layers % depth == 0,
        f"model.num_layers = {config.num_layers}: must be a multiple of the {depth} layers of the model to grow from",
    )
    grown = stack_layers(source, config.num_layers)
    with torch.device("meta"):
        expected = Longcat(config).state_dict()
    for name, tensor in expected.items():
        if name not in grown:
            raise ConfigError(f"growth: the source lacks {_source_name(name, depth)!r}, from which {name!r} would come")
        if grown[name].shape != tensor.shape:
            raise ConfigError(
                f"growth: {_source_name(name, depth)!r} of the source has shape {list(grown[name].shape)}; "
                f"the grown model needs {list(tensor.shape)}"
            )
    for name in grown:
        require(
            name in expected, f"growth: the grown model has no place for the source's {_source_name(name, depth)!r}"
        )
    return grown


def stack_layers(source: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """`source` with its layers repeated in order up to `layers`: for state dicts of models and of optimizers.

    The tensors are shared, not copied.
    """
    depth = layer_count(source)
    grown: dict[str, Tensor] = {}
    for name, tensor in source.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            grown[name] = tensor
        else:
            first, rest = int(match[1]), match[2]
            grown |= {f"layers.{layer}.{rest}": tensor for layer in range(first, layers, depth)}
    return grown


def layer_count(state: Mapping[str, Tensor]) -> int:
    """Number of logical layers that a state dict speaks of (the draft head's block is not one of them)."""
    return 1 + max((int(match[1]) for match in map(_LAYER.fullmatch, state) if match), default=-1)


def _source_name(name: str, depth: int) -> str:
    match = _LAYER.fullmatch(name)
    return f"layers.{int(match[1]) % depth}.{match[2]}" if match else name
