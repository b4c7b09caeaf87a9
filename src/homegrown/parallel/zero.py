"""The optimizer of a run, its state spread over ranks (ZeRO-1, arXiv 1910.02054): the same class on one and on many.

Every piece of a parameter (see `pieces`) has one owner, who keeps its float32 master and its state. A step is:
`reduce` (gradients are summed and travel to the owners), `grad_norm`, `step` (owners update, weights travel back to
all who hold them). What nobody else holds is updated in place, where it is: on one rank that is everything, and
nothing is copied or sent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from homegrown import device as devices
from homegrown.config import ConfigError, ModelConfig, OptimConfig, require
from homegrown.optim import Group as OptimGroup
from homegrown.optim import group_of
from homegrown.optim.norm import norm, piece_norms
from homegrown.optim.rules import make_rules
from homegrown.optim.slots import Slot, WeightSlot
from homegrown.parallel.collectives import all_reduce
from homegrown.parallel.exchange import BUCKET_BYTES
from homegrown.parallel.gradients import make_routes, no_gradient
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.pieces import Piece, model_shapes, piece_borders


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    model_config: ModelConfig,
    bf16_fast: bool,
    row_lazy: Collection[str] = (),
) -> ShardedOptimizer:
    """The optimizer of a whole model on one rank; see `ShardedOptimizer`."""
    alone = Groups(Layout(part_layers=(model_config.num_layers,)), 0, 1.0)
    return ShardedOptimizer(dict(model.named_parameters()), alone, config, model_config, bf16_fast, row_lazy)


class ShardedOptimizer:
    """Steps all groups of parameters; every rank owns the state of some pieces.

    Build it, on all ranks at once, when the weights are loaded and on their device: float32 masters are made of them
    here. Parameters that do not require a gradient have masters too, which no step changes: what `state` holds is all
    of the model.

    Args:
        parameters: this rank's part of the model, named as in `homegrown.model`.
        groups: of this rank.
        config: rates and constants.
        model_config: of the whole model.
        bf16_fast: whether the device multiplies bfloat16 faster than float32 (what `muon_dtype = "auto"` asks).
        row_lazy: names of row groups (`optim.groups.ROW_GROUPS`) whose rows are left alone in steps that do not use
            them, see `AdamW`.
        offload: keep masters and state in host memory, and bring them to the device piece by piece for the update.
        gradient_dtype: in which gradients travel to be summed; `None` is each weight's dtype, which loses nothing
            where a rank's gradient is that of one backward pass. Gradients that were accumulated are wider.
        bucket_bytes: most bytes of a bucket, unless one piece is larger.

    Raises:
        ConfigError: an impossible setting, a parameter that no group is defined for, or one whose shape is not that of
            this rank's part.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        groups: Groups,
        config: OptimConfig,
        model_config: ModelConfig,
        bf16_fast: bool,
        row_lazy: Collection[str] = (),
        *,
        offload: bool = False,
        gradient_dtype: torch.dtype | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        require(bool(parameters), "the optimizer got no parameters")
        self._parameters, self._groups = dict(parameters), groups
        self._trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
        require(bool(self._trained), "the model has no parameter that requires a gradient")
        self._device = next(iter(parameters.values())).device
        self._gradient_dtype = gradient_dtype
        self._shapes = {name: _whole_shape(name, weight, groups, model_config) for name, weight in parameters.items()}
        self._group_of = {name: group_of(name, shape, config, model_config) for name, shape in self._shapes.items()}
        self._first = _first_pieces(config, model_config)
        self._routes = make_routes(
            self._parameters, self._shapes, self._group_of, groups, model_config,
            steps=config.muon_steps, row_lazy=row_lazy, gradient_dtype=gradient_dtype, bucket_bytes=bucket_bytes,
        )  # fmt: skip
        if offload:
            self._offload()
        by_group: dict[OptimGroup, list[Slot]] = {self._group_of[name]: [] for name in self._trained}
        self._frozen: list[Slot] = []
        for slot in self._routes.slots():
            self._slots_of(slot.name, by_group).append(slot)
        self._members = make_rules(by_group, config, bf16_fast, row_lazy, self._device)
        self._active: list[str] | None = None

    def table(self) -> list[dict[str, Any]]:
        """What each group got, one row a group: `group`, `optimizer`, `tensors` and `parameters` (counts, of the whole
        parameters that this rank's stage has a part in), `lr` (peak, width transfer included), `weight_decay`, `dtype`
        (of the weights).

        Frozen parameters have a row of their own, without an optimizer.
        """
        rows = []
        for member in self._members:
            names = [name for name in self._trained if self._group_of[name] == member.group]
            label = member.rule.label
            rows.append(self._row(member.group.name, label, names, member.group.lr, member.group.weight_decay))
        frozen = [name for name in self._parameters if name not in set(self._trained)]
        return [*rows, self._row("frozen", "none", frozen, 0.0, 0.0)] if frozen else rows

    @torch.no_grad()
    def reduce(self, active: Callable[[str], bool] | None = None) -> None:
        """Bring the gradients to the owners of their pieces, summed over all ranks that hold the same part.

        Called once a step, on all ranks, after the backward passes. Gradients of parameters that other ranks hold too
        are gone from `grad` afterwards.

        Args:
            active: whether a parameter takes part in this step; it must say the same on all ranks. A gradient that is
                missing on this rank counts as zeros. `None` asks the other ranks: a parameter takes part if any of
                them has a gradient, which costs a collective on the host.

        Raises:
            ConfigError: a gradient is of a kind that its group does not take.
        """
        if active is None:
            present = {name for name in self._trained if self._parameters[name].grad is not None}
            chosen = self._routes.agree(self._trained, present, self._groups)
        else:
            chosen = [name for name in self._trained if active(name)]
        for name in chosen:
            if self._parameters[name].grad is None:
                self._parameters[name].grad = no_gradient(self._parameters[name], self._routes.is_lazy(name))
        self._routes.reduce(chosen)
        self._active = chosen

    @torch.no_grad()
    def grad_norm(self) -> Tensor:
        """Euclidean norm of all gradients of the model, a float32 scalar tensor: the same bits on all ranks, and for
        any number of threads and any spreading of the pieces."""
        norms = torch.zeros(self._first[""], dtype=torch.float32, device=self._device)
        for slot in self._slots():
            if slot.gradient is not None:
                first = self._position(slot)
                norms[first : first + len(slot.borders) - 1] = piece_norms(slot)
        for kind in ("tokens", "pp"):
            # Each number comes from one rank, all others add zeros: no sum is rounded.
            norms = all_reduce(norms, self._groups[kind])
        return norm(norms)

    @torch.no_grad()
    def step(self, lr_factor: float, grad_scale: Tensor | None = None, keep: Tensor | None = None) -> None:
        """Update every parameter that has a gradient, and bring the new weights to all ranks that hold them. The host
        never waits for the device (but see `AdamW` and `ReplicatedRows` for sparse gradients). Gradients may be
        overwritten.

        Args:
            lr_factor: the schedule's factor on every group's rate.
            grad_scale: float32 scalar tensor that multiplies the gradients (clipping), or None.
            keep: float32 scalar tensor, 1 or 0; 0 leaves weights, masters and state as they are to the last bit,
                whatever the gradients hold. None is 1.

        Raises:
            ConfigError: there are other ranks, and `reduce` was not called since the last step.
        """
        require(
            self._active is not None or self._groups.layout.world == 1,
            "optimizer step without a reduction: call `reduce` after the backward passes of every step",
        )
        accepted = None if keep is None else keep != 0
        for member in self._members:
            member.step(lr_factor, grad_scale, accepted)
        if self._active is not None:
            self._routes.publish(self._active)
            self._active = None

    def zero_grad(self) -> None:
        """Drop all gradients, so that the next backward pass writes instead of adding to zeros."""
        for parameter in self._parameters.values():
            parameter.grad = None
        for slot in self._slots():
            slot.gradient = None

    def state(self) -> dict[str, Tensor]:
        """Masters and state of the pieces owned here, by `{parameter}@{first row}:{last row}/{kind}`: the tensors
        themselves, not copies. Kinds are master, momentum (Muon), exp_avg, exp_avg_sq and step (AdamW).

        Over all ranks every piece of the model is there once. Whoever writes into them calls `loaded` afterwards.
        """
        devices.synchronize(self._device)  # offloaded tensors may still be on their way to the host
        kept = {f"{key}/master": piece for slot in self._slots() for key, piece in _keyed(slot, slot.master)}
        for member in self._members:
            for slot in member.rule.slots:
                for kind, tensor in member.rule.state(slot).items():
                    pieces = tensor.unbind() if kind == "step" else slot.cut(tensor)
                    kept |= {
                        f"{key}/{kind}": piece
                        for (key, _), piece in zip(_keyed(slot, slot.master), pieces, strict=True)
                    }
        return kept

    def gradients(self) -> dict[str, Tensor]:
        """Summed gradients of the pieces owned here, dense, by `{parameter}@{first row}:{last row}`; between `reduce`
        and `step`."""
        found: dict[str, Tensor] = {}
        for slot in self._slots():
            if slot.gradient is not None:
                gradient = slot.gradient.to_dense() if slot.gradient.is_sparse else slot.gradient
                found |= dict(_keyed(slot, gradient))
        return found

    @torch.no_grad()
    def loaded(self) -> None:
        """Bring the masters, after they were written to, to the weights of all ranks; called on all of them."""
        self._routes.publish_all()

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy `state` in and publish the weights; nothing changes unless all of it fits. Called on all ranks.

        Raises:
            ConfigError: an entry is missing, unknown, or of another shape or dtype.
        """
        own = self.state()
        faults = _faults(own, state)
        if faults:
            more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
            raise ConfigError(f"optimizer state does not fit this model and configuration: {faults[0]}{more}")
        for key, tensor in own.items():
            tensor.copy_(state[key])
        self.loaded()

    def bytes(self) -> dict[str, int]:
        """Memory that the optimizer takes on this rank, by what it is for.

        `gradients` of this rank's parameters, all at once; `owned gradients`, summed, from `reduce` to the end of the
        step; `masters` apart from weights; `state` of Muon and AdamW; `staging`, the most that buckets under way take.
        Sparse gradients are not in it: their size is the data's. Neither are the temporaries of an update.
        """
        owned = [slot for slot in self._slots() if not isinstance(slot, WeightSlot)]
        trained = {name: self._parameters[name] for name in self._trained if not self._routes.is_lazy(name)}
        state = [
            tensor
            for member in self._members
            for slot in member.rule.slots
            for tensor in member.rule.state(slot).values()
        ]
        masters = [
            slot.master
            for slot in self._slots()
            if not (isinstance(slot, WeightSlot) and slot.master.dtype == slot.weight.dtype)
        ]
        return {
            "gradients": sum(
                weight.numel() * (self._gradient_dtype or weight.dtype).itemsize for weight in trained.values()
            ),
            "owned gradients": sum(4 * slot.master.numel() for slot in owned if slot.name in trained),
            "masters": sum(4 * master.numel() for master in masters),
            "state": sum(4 * tensor.numel() for tensor in state),
            "staging": self._routes.staging(),
        }

    def _slots(self) -> Iterator[Slot]:
        for member in self._members:
            yield from member.rule.slots
        yield from self._frozen

    def _slots_of(self, name: str, by_group: dict[OptimGroup, list[Slot]]) -> list[Slot]:
        return by_group[self._group_of[name]] if self._parameters[name].requires_grad else self._frozen

    def _position(self, slot: Slot) -> int:
        """Number of a slot's first piece among all pieces of the model."""
        borders = piece_borders(self._shapes[slot.name], self._group_of[slot.name])
        return self._first[slot.name] + bisect_left(borders, slot.borders[0])

    def _offload(self) -> None:
        if self._device.type == "cpu":
            raise ConfigError(
                "offload of optimizer state: this run computes on the CPU, so the state is in host memory anyway; turn it off"
            )
        for slot in self._routes.slots():
            slot.offload()

    def _row(self, group: str, optimizer: str, names: list[str], lr: float, weight_decay: float) -> dict[str, Any]:
        dtypes = {str(self._parameters[name].dtype).removeprefix("torch.") for name in names}
        return {
            "group": group,
            "optimizer": optimizer,
            "tensors": len(names),
            "parameters": sum(torch.Size(self._shapes[name]).numel() for name in names),
            "lr": lr,
            "weight_decay": weight_decay,
            "dtype": ", ".join(sorted(dtypes)),
        }


def _whole_shape(name: str, weight: Tensor, groups: Groups, model: ModelConfig) -> tuple[int, ...]:
    """Shape of the whole parameter of which `weight` is this rank's part."""
    shape = model_shapes(model).get(name)
    if shape is None:
        raise ConfigError(f"parameter {name!r} of shape {list(weight.shape)}: the model has none of this name")
    shard = groups.layout.shard(name, shape, groups.rank, model)
    if shard is None:
        raise ConfigError(f"parameter {name!r}: it does not belong to the pipeline stage of rank {groups.rank}")
    if shard.local_shape != tuple(weight.shape):
        raise ConfigError(
            f"parameter {name!r} has shape {list(weight.shape)}: rank {groups.rank} holds {list(shard.local_shape)} of "
            f"{list(shape)}"
        )
    return shape


def _first_pieces(config: OptimConfig, model: ModelConfig) -> dict[str, int]:
    """Number of every parameter's first piece among all pieces of the model; under "" how many there are."""
    first, total = {}, 0
    for name, shape in model_shapes(model).items():
        first[name] = total
        total += len(piece_borders(shape, group_of(name, shape, config, model))) - 1
    return {**first, "": total}


def _keyed(slot: Slot, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    for (start, stop), piece in zip(pairwise(slot.borders), slot.cut(tensor), strict=True):
        yield Piece(slot.name, start, stop).key, piece


def _faults(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{key!r} is missing" for key in own if key not in given]
    unknown = [f"{key!r} is not part of it" for key in given if key not in own]
    misfits = [
        f"{key!r} is {_kind(given[key])}, not {_kind(own[key])}"
        for key in own
        if key in given and (given[key].shape != own[key].shape or given[key].dtype != own[key].dtype)
    ]
    return missing + unknown + misfits


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
