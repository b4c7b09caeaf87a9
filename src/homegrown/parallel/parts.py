"""The part of the model that a rank holds, and its weights: cut out of the whole without the whole ever being there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from homegrown.config import ModelConfig, UserError
from homegrown.model import Longcat
from homegrown.model.initialise import fill_shard
from homegrown.parallel.layout import Layout, Part, Shard


class PartError(UserError):
    """A part of a model that cannot be made or filled; the message names the parameter."""


def build_part(config: ModelConfig, part: Part, layout: Layout, rank: int) -> Longcat:
    """A model on the meta device that holds what `rank` holds of a pipeline part.

    Layers keep the numbers, and parameters the names, that they have in the whole model; what is elsewhere is `None`.
    Parameters have the shapes of their shards. The next steps are `cast` and `to_empty(device=...)`, then `fill` or
    `load_shards`.

    Raises:
        PartError: the part lives on another stage.
    """
    if part not in layout.parts_of(rank):
        raise PartError(f"rank {rank}: pipeline part {part.number} lives on stage {part.number % layout.pp}")
    with torch.device("meta"):
        model = Longcat(config).cut(part.layers, part.first, part.last)
        for name, shard in shards(model, layout, rank):
            if not shard.whole:
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, nn.Parameter(torch.empty(shard.local_shape)))
    return model


def shards(model: Longcat, layout: Layout, rank: int) -> Iterator[tuple[str, Shard]]:
    """Name of each parameter of a part, and which part of it `rank` holds.

    Raises:
        PartError: a parameter does not belong to this rank's stage.
    """
    shapes = global_shapes(model.config)
    for name, _ in model.named_parameters():
        shard = layout.shard(name, shapes[name], rank, model.config)
        if shard is None:
            raise PartError(f"rank {rank}: parameter {name} belongs to another pipeline stage")
        yield name, shard


@lru_cache(maxsize=4)
def global_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the whole model, by name."""
    with torch.device("meta"):
        model = Longcat(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def fill(model: Longcat, layout: Layout, rank: int, seed: int) -> None:
    """Give a part its initial weights: the same numbers as `Longcat.init_weights` gives the whole model.

    One block of a parameter at a time is drawn on the host (`homegrown.model.initialise`).

    Args:
        model: from `build_part`, on its device.
        layout, rank: whose part it is.
        seed: the run's.
    """
    for name, shard in shards(model, layout, rank):
        target = model.get_parameter(name)
        fill_shard(target, name, shard.shape, shard.dim, shard.start, shard.stop, model.config, seed)
    for router in model.routers():
        router.e_score_correction_bias.zero_()


@torch.no_grad()
def load_shards(model: Longcat, layout: Layout, rank: int, tensors: Mapping[str, Tensor]) -> None:
    """Give a part its share of global tensors.

    Args:
        model: from `build_part`, on its device.
        layout, rank: whose part it is.
        tensors: by name, as in the whole model's `state_dict`; only what the part needs is looked up.

    Raises:
        PartError: a tensor is missing or has another shape.
    """
    for name, shard in shards(model, layout, rank):
        whole = _find(tensors, name, shard.shape)
        model.get_parameter(name).copy_(whole.narrow(shard.dim, shard.start, shard.stop - shard.start))
    for name, buffer in model.named_buffers():
        buffer.copy_(_find(tensors, name, tuple(buffer.shape)))


def _find(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    if name not in tensors:
        raise PartError(f"tensor {name} is missing")
    if tuple(tensors[name].shape) != shape:
        raise PartError(f"tensor {name} has shape {list(tensors[name].shape)}, not {list(shape)}")
    return tensors[name]
