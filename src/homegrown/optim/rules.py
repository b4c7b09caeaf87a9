"""From groups of slots to the rules that update them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.config import OptimConfig, require
from homegrown.optim.adamw import AdamSettings, AdamW, has_fused_kernel
from homegrown.optim.groups import GROUP_NAMES, ROW_GROUPS, Group
from homegrown.optim.muon import Muon
from homegrown.optim.slots import Slot, Update


@dataclass(frozen=True)
class Member:
    """A group with the rule that updates its parameters."""

    group: Group
    rule: Muon | AdamW

    def step(self, lr_factor: float, grad_scale: Tensor | None, keep: Tensor | None) -> None:
        """Update every slot that has a gradient; see `Update`."""
        self.rule.step(Update(self.group.lr * lr_factor, self.group.weight_decay, grad_scale, keep))


def make_rules(
    slots: Mapping[Group, Sequence[Slot]],
    config: OptimConfig,
    bf16_fast: bool,
    row_lazy: Collection[str],
    device: torch.device,
) -> list[Member]:
    """A rule for each group, in the order in which groups are shown; a group may have no slots here.

    Args:
        slots: by group.
        config: constants.
        bf16_fast: whether the device multiplies bfloat16 faster than float32 (what `muon_dtype = "auto"` asks).
        row_lazy: names of row groups (`groups.ROW_GROUPS`) whose rows are left alone in steps that do not use them.
        device: where updates are computed.

    Raises:
        ConfigError: an impossible setting.
    """
    _check(config, row_lazy)
    members = []
    for group in sorted(slots, key=lambda group: GROUP_NAMES.index(group.name)):
        if group.optimizer == "muon":
            rule: Muon | AdamW = _muon(slots[group], config, bf16_fast)
        else:
            settings = AdamSettings(config.adam_beta1, config.adam_beta2, config.adam_eps)
            rule = AdamW(slots[group], settings, fused=has_fused_kernel(device), row_lazy=group.name in row_lazy)
        members.append(Member(group, rule))
    return members


def _muon(slots: Sequence[Slot], config: OptimConfig, bf16_fast: bool) -> Muon:
    bfloat16 = bf16_fast if config.muon_dtype == "auto" else config.muon_dtype == "bfloat16"
    return Muon(
        slots,
        momentum=config.muon_momentum,
        nesterov=config.muon_nesterov,
        steps=config.muon_steps,
        dtype=torch.bfloat16 if bfloat16 else torch.float32,
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
