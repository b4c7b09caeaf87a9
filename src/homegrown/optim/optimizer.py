"""The optimizer of a run: every parameter in one group, every group with its rule."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from homegrown.config import ModelConfig, OptimConfig, require
from homegrown.optim.adamw import AdamSettings, AdamW, has_fused_kernel
from homegrown.optim.groups import GROUP_NAMES, ROW_GROUPS, Group, group_of
from homegrown.optim.muon import Muon
from homegrown.optim.norm import global_norm
from homegrown.optim.slots import Slot, Update


@dataclass(frozen=True)
class Member:
    """A group with the rule that updates its parameters."""

    group: Group
    rule: Muon | AdamW


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    model_config: ModelConfig,
    bf16_fast: bool,
    row_lazy: Collection[str] = (),
) -> Optimizer:
    """The optimizer of all parameters of `model` that require a gradient.

    Build it when the weights are loaded and on their device: float32 masters of other weights are made here.

    Args:
        model: parameters named as in `homegrown.model`.
        config: rates and constants.
        model_config: for width transfer.
        bf16_fast: whether the device multiplies bfloat16 faster than float32 (what `muon_dtype = "auto"` asks).
        row_lazy: names of row groups (`groups.ROW_GROUPS`) whose rows are left alone in steps that do not use them,
            see `AdamW`.

    Raises:
        ConfigError: an impossible setting, or a parameter that no group is defined for.
    """
    _check(config, row_lazy)
    slots: dict[Group, list[Slot]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            slots.setdefault(group_of(name, weight.shape, config, model_config), []).append(Slot(name, weight))
    require(bool(slots), "the model has no parameter that requires a gradient")
    members = []
    for group in sorted(slots, key=lambda group: GROUP_NAMES.index(group.name)):
        if group.optimizer == "muon":
            rule: Muon | AdamW = _muon(slots[group], config, bf16_fast)
        else:
            rule = _adamw(slots[group], config, group.name in row_lazy)
        members.append(Member(group, rule))
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    return Optimizer(members, frozen)


class Optimizer:
    """Steps all groups; keeps no state but the rules'.

    State is keyed by parameter name, as `name/momentum` (Muon), `name/exp_avg`, `name/exp_avg_sq`, `name/step`
    (AdamW) and `name/master` (the float32 weights of a parameter that is not float32).
    """

    def __init__(self, members: list[Member], frozen: list[nn.Parameter]) -> None:
        self._members = members
        self._frozen = frozen
        self._slots = [slot for member in members for slot in member.rule.slots]

    def table(self) -> list[dict[str, Any]]:
        """What each group got, one row a group: `group`, `optimizer`, `tensors` and `parameters` (counts), `lr` (peak,
        width transfer included), `weight_decay`, `dtype` (of the weights).

        Frozen parameters have a row of their own, without an optimizer.
        """
        rows = [
            _row(
                member.group.name,
                member.rule.label,
                [slot.weight for slot in member.rule.slots],
                member.group.lr,
                member.group.weight_decay,
            )
            for member in self._members
        ]
        return [*rows, _row("frozen", "none", self._frozen, 0.0, 0.0)] if self._frozen else rows

    @torch.no_grad()
    def step(self, lr_factor: float, grad_scale: Tensor | None = None, keep: Tensor | None = None) -> None:
        """Update every parameter that has a gradient. The host never waits for the device (but see `AdamW` for sparse
        gradients). Gradients may be overwritten.

        Args:
            lr_factor: the schedule's factor on every group's rate.
            grad_scale: float32 scalar tensor that multiplies the gradients (clipping), or None.
            keep: float32 scalar tensor, 1 or 0; 0 leaves weights, masters and state as they are to the last bit,
                whatever the gradients hold. None is 1.
        """
        accepted = None if keep is None else keep != 0
        for member in self._members:
            lr = member.group.lr * lr_factor
            member.rule.step(Update(lr, member.group.weight_decay, grad_scale, accepted))

    @torch.no_grad()
    def grad_norm(self) -> Tensor:
        """Euclidean norm of all gradients, a float32 scalar tensor: the same bits for any number of threads."""
        gradients = [slot.gradient for slot in self._slots if slot.gradient is not None]
        if not gradients:
            return torch.zeros((), device=self._slots[0].weight.device)
        return global_norm([gradient.values() if gradient.is_sparse else gradient for gradient in gradients])

    def zero_grad(self) -> None:
        """Drop all gradients, so that the next backward pass writes instead of adding to zeros."""
        for slot in self._slots:
            slot.weight.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """All state by `parameter/kind`: the tensors themselves, not copies."""
        state: dict[str, Tensor] = {}
        for member in self._members:
            for slot in member.rule.slots:
                kinds = member.rule.state(slot)
                if slot.has_master:
                    kinds = {**kinds, "master": slot.master}
                state |= {f"{slot.name}/{kind}": tensor for kind, tensor in kinds.items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy `state` in, and round the masters in it into the weights; nothing changes unless all of it fits.

        Raises:
            ValueError: an entry is missing, unknown, or of another shape or dtype.
        """
        own = self.state_dict()
        faults = _faults(own, state)
        if faults:
            more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
            raise ValueError(f"optimizer state does not fit this model and configuration: {faults[0]}{more}")
        for key, tensor in own.items():
            tensor.copy_(state[key])
        for slot in self._slots:
            slot.publish()


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
    return f"{_dtype(tensor)} {list(tensor.shape)}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _row(group: str, optimizer: str, weights: list[nn.Parameter], lr: float, weight_decay: float) -> dict[str, Any]:
    return {
        "group": group,
        "optimizer": optimizer,
        "tensors": len(weights),
        "parameters": sum(weight.numel() for weight in weights),
        "lr": lr,
        "weight_decay": weight_decay,
        "dtype": ", ".join(sorted({_dtype(weight) for weight in weights})),
    }


def _muon(slots: list[Slot], config: OptimConfig, bf16_fast: bool) -> Muon:
    bfloat16 = bf16_fast if config.muon_dtype == "auto" else config.muon_dtype == "bfloat16"
    return Muon(
        slots,
        momentum=config.muon_momentum,
        nesterov=config.muon_nesterov,
        steps=config.muon_steps,
        dtype=torch.bfloat16 if bfloat16 else torch.float32,
    )


def _adamw(slots: list[Slot], config: OptimConfig, row_lazy: bool) -> AdamW:
    fused = all(has_fused_kernel(device) for device in {slot.master.device for slot in slots})
    return AdamW(
        slots, AdamSettings(config.adam_beta1, config.adam_beta2, config.adam_eps), fused=fused, row_lazy=row_lazy
    )


def _check(config: OptimConfig, row_lazy: Collection[str]) -> None:
    for name in (
        "muon_lr",
        "adam_lr",
        "embed_lr",
        "ngram_lr",
        "head_lr",
        "indexer_lr",
        "weight_decay",
        "clip_norm",
        "base_width",
    ):
        value = getattr(config, name)
        require(value >= 0, f"optim.{name} = {value}: must not be negative")
    for name in ("muon_momentum", "adam_beta1", "adam_beta2"):
        value = getattr(config, name)
        require(0 < value < 1, f"optim.{name} = {value}: must lie between 0 and 1")
    require(config.adam_eps > 0, f"optim.adam_eps = {config.adam_eps}: must be positive")
    require(config.muon_steps >= 1, f"optim.muon_steps = {config.muon_steps}: must be at least 1")
    for name in row_lazy:
        require(name in ROW_GROUPS, f"row_lazy: {name!r} is not a group of rows; those are: {', '.join(ROW_GROUPS)}")
