"""The optimizer of a run, its state spread over ranks (ZeRO-1, arXiv 1910.02054): the same class on one and on many.

Every piece of a parameter (see `pieces`) has one owner, who keeps its float32 master and its state. A step is:
`reduce` (gradients are summed and travel to the owners), `grad_norm`, `step` (owners update, weights travel back to
all who hold them). What nobody else holds is updated in place, where it is: on one rank that is everything, and
nothing is copied or sent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
from homegrown.parallel.gradients import make_routes, no_gradient, whole_shape
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.pieces import first_pieces, piece_borders
from homegrown.parallel.state import faults_of, gradients_of, state_of


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
        self._shapes = {name: whole_shape(name, weight, groups, model_config) for name, weight in parameters.items()}
        self._group_of = {name: group_of(name, shape, config, model_config) for name, shape in self._shapes.items()}
        self._first = first_pieces(config, model_config)
        self._routes = make_routes(
            self._parameters, self._shapes, self._group_of, groups, model_config,
            steps=config.muon_steps, row_lazy=row_lazy, gradient_dtype=gradient_dtype, bucket_bytes=bucket_bytes,
        )  # fmt: skip
        self._offloaded = offload
        if offload:
            self._move_to_host()
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
        if self._offloaded:
            devices.synchronize(self._device)  # the last update may still be on its way to the host
        return state_of(self._members, self._frozen)

    def gradients(self) -> dict[str, Tensor]:
        """Summed gradients of the pieces owned here, dense, by `{parameter}@{first row}:{last row}`; between `reduce`
        and `step`."""
        return gradients_of(self._slots())

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
        faults = faults_of(own, state)
        if faults:
            more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
            raise ConfigError(f"optimizer state does not fit this model and configuration: {faults[0]}{more}")
        for key, tensor in own.items():
            tensor.copy_(state[key])
        self.loaded()

    def bytes(self) -> dict[str, int]:
        """Memory that the optimizer takes on this rank, by what it is for.

        `gradients` of this rank's parameters, all at once; `owned gradients`, summed, from `reduce` to the end of the
        step; `masters` apart from weights; `state` of Muon and AdamW; `host`, what offloading keeps in host memory of
        these two; `staging`, the most that buckets under way take. Sparse gradients are not in it: their size is the
        data's. Neither are the temporaries of an update.
        """
        trained = {name: self._parameters[name] for name in self._trained if not self._routes.is_lazy(name)}
        apart = [slot for slot in self._slots() if not isinstance(slot, WeightSlot)]
        masters = [slot.master for slot in (*apart, *self._routes.alone.values()) if slot.has_master]
        state = [
            tensor
            for member in self._members
            for slot in member.rule.slots
            for tensor in member.rule.state(slot).values()
        ]
        return {
            "gradients": sum(
                weight.numel() * (self._gradient_dtype or weight.dtype).itemsize for weight in trained.values()
            ),
            "owned gradients": sum(4 * slot.master.numel() for slot in apart if slot.name in trained),
            "masters": _size(tensor for tensor in masters if tensor.device == self._device),
            "state": _size(tensor for tensor in state if tensor.device == self._device),
            "host": _size(tensor for tensor in (*masters, *state) if tensor.device != self._device),
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

    def _move_to_host(self) -> None:
        require(
            self._device.type != "cpu",
            "offload of optimizer state: a run on the CPU has its state in host memory anyway; turn it off",
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


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
