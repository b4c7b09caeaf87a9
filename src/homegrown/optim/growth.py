"""Model growth: a deep model begun from a trained shallow one by stacking its layers (arXiv 2509.01322 section 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from homegrown.config import ConfigError, ModelConfig, require
from homegrown.model import Longcat

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


def stack_layers(source: Mapping[str, Tensor], source_config: ModelConfig, config: ModelConfig) -> dict[str, Tensor]:
    """The state dict with which a model of `config` begins, from that of the same model with fewer layers.

    With L source layers and r L target layers these are l1..lL, l1..lL, ... (r times); everything outside the layers
    is taken as it is. `repeat_layers` does the same to an optimizer's state.

    Args:
        source: state dict of the trained model.
        source_config: of the trained model.
        config: of the grown model.

    Returns:
        A state dict for `Longcat(config)`. It shares the source's tensors, and repeated layers share one: load it into
        a model, do not train on it.

    Raises:
        ConfigError: the source's layers do not divide the target's, or a tensor is missing, unknown or of another
            shape than the target has.
    """
    depth = source_config.num_layers
    require(
        config.num_layers % depth == 0,
        f"model.num_layers = {config.num_layers}: must be a multiple of the {depth} layers of the model to grow from",
    )
    grown = repeat_layers(source, depth, config.num_layers)
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


def repeat_layers(state: Mapping[str, Tensor], depth: int, layers: int) -> dict[str, Tensor]:
    """`state` of a model (or of its optimizer) of `depth` layers, its layers repeated in order up to `layers`.

    Entries that belong to no layer are kept; the draft head's block is not a layer. Tensors are shared, not copied.
    """
    grown: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            grown[name] = tensor
        else:
            grown |= {f"layers.{layer}.{match[2]}": tensor for layer in range(int(match[1]), layers, depth)}
    return grown


def _source_name(name: str, depth: int) -> str:
    match = _LAYER.fullmatch(name)
    return f"layers.{int(match[1]) % depth}.{match[2]}" if match else name
