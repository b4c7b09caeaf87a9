"""AdamW (arXiv 1711.05101): PyTorch's fused kernel where there is one, the formula in plain operators elsewhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from homegrown.optim.slots import (
    CHUNK_NUMBERS,
    Slot,
    Update,
    assign,
    brought,
    in_chunks,
    put_rows,
    take_rows,
)


@dataclass(frozen=True)
class AdamSettings:
    """The constants of Adam; the rate and the decay come with every step."""

    beta1: float
    beta2: float
    eps: float


_Kept = tuple[Tensor, Tensor, Tensor, Tensor]
"""Count of steps, master and moments of some rows."""


@dataclass(frozen=True)
class _Part:
    """Some rows of a piece with what belongs to them; all of the same shape but the count of its steps."""

    step: Tensor
    gradient: Tensor
    master: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    @property
    def targets(self) -> tuple[Tensor, Tensor, Tensor]:
        """What an update changes."""
        return self.master, self.exp_avg, self.exp_avg_sq


class AdamW:
    """AdamW over slots, each piece with its own step count; a slot without a gradient is left alone.

    `row_lazy` is for tables of which a step uses few rows: rows without gradient keep weights and moments, as if the
    step had not been for them (the update of `torch.optim.SparseAdam`, with decoupled decay). That is another
    algorithm than plain AdamW, under which an unused row goes on moving while its moments fade. It takes sparse
    gradients, as `F.embedding(..., sparse=True)` makes them, and then costs what the used rows cost; a dense gradient,
    of which a row of zeros counts as unused, costs the whole table. Where the device runs ahead of the host, coalescing
    a sparse gradient waits for it; nothing else here does.

    Args:
        slots: rows of any parameters; of two axes if `row_lazy`.
        settings: Adam's constants.
        fused: use the fused kernel for dense updates; see `has_fused_kernel`.
        row_lazy: leave rows without gradient alone.
    """

    def __init__(self, slots: Sequence[Slot], settings: AdamSettings, *, fused: bool, row_lazy: bool = False) -> None:
        self.slots = list(slots)
        self._settings = settings
        self._fused = fused
        self._row_lazy = row_lazy
        self._state = {slot: _new_state(slot) for slot in self.slots}
        self._kept = {slot: list(self._cut(slot)) for slot in self.slots}

    @property
    def label(self) -> str:
        """How the update is computed, for the table shown at start."""
        if self._row_lazy:
            return "AdamW, row-lazy"
        return "AdamW, fused" if self._fused else "AdamW, plain"

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """The state kept for `slot`: the moments, of its master's shape, and `step`, float32 [pieces]."""
        return self._state[slot]

    def step(self, update: Update) -> None:
        """One update of every slot that has a gradient; the gradients may be overwritten.

        Raises:
            ValueError: a gradient is sparse and this is not row-lazy.
        """
        counted = 1.0 if update.keep is None else update.keep.to(torch.float32)
        dense = []
        for slot in self.slots:
            gradient = slot.gradient
            if gradient is None:
                continue
            if gradient.is_sparse and not self._row_lazy:
                raise ValueError(f"parameter {slot.name!r}: a sparse gradient needs a row-lazy group (`row_lazy`)")
            self._state[slot]["step"].add_(counted)
            if gradient.is_sparse:
                self._update_rows(slot, gradient, update)
            else:
                dense.append((slot, gradient))
        parts = (part for slot, gradient in dense for part in self._parts(slot, gradient))
        for chunk in in_chunks(parts, lambda part: part.gradient.numel()):
            if self._fused and not self._row_lazy:
                self._update_fused(chunk, update)
            else:
                self._update_plain(chunk, update)
        for slot, _ in dense:
            slot.publish()

    def _cut(self, slot: Slot) -> Iterator[_Kept]:
        """Views of the slot's pieces, and those in parts of bounded size: once, since a small model has many.

        The fused kernel rounds the last few numbers of a tensor unlike the others, so parts are cut from the piece's
        first row on: where they end must not depend on what else is updated here.
        """
        state = self._state[slot]
        whole = (slot.master, state["exp_avg"], state["exp_avg_sq"])
        for step, *piece in zip(state["step"], *(slot.cut(tensor) for tensor in whole), strict=True):
            length = max(1, CHUNK_NUMBERS * len(piece[0]) // max(1, piece[0].numel()))
            for views in zip(*(tensor.split(length) for tensor in piece), strict=True):
                yield (step, *views)

    def _parts(self, slot: Slot, gradient: Tensor) -> Iterator[_Part]:
        """The slot in these parts, each with its gradient."""
        kept = self._kept[slot]
        rows = gradient.split([len(master) for _, master, _, _ in kept])
        for (step, *views), own in zip(kept, rows, strict=True):
            yield _Part(step, own, *views)

    def _update_fused(self, parts: list[_Part], update: Update) -> None:
        kept = [target for part in parts for target in part.targets]
        with brought(kept, parts[0].gradient.device) as here:
            adamw(
                here[0::3],
                # The kernel walks memory, not strides: a gradient of another layout would be read in the wrong order.
                [part.gradient.to(torch.float32).contiguous() for part in parts],
                here[1::3],
                here[2::3],
                [],
                # It counts steps itself, once per tensor; here a piece's parts share one count, up to date already.
                [part.step - 1 for part in parts],
                fused=True,
                # It divides by its scale, and does nothing where "found_inf" is one.
                grad_scale=None if update.grad_scale is None else update.grad_scale.reciprocal(),
                found_inf=None if update.keep is None else update.keep.logical_not().to(torch.float32),
                amsgrad=False,
                maximize=False,
                lr=update.lr,
                weight_decay=update.weight_decay,
                beta1=self._settings.beta1,
                beta2=self._settings.beta2,
                eps=self._settings.eps,
            )

    def _update_plain(self, parts: list[_Part], update: Update) -> None:
        for part in parts:
            where = update.keep
            if self._row_lazy:
                used = (part.gradient != 0).any(dim=-1, keepdim=True)
                where = used if where is None else used & where
            with brought(part.targets, part.gradient.device) as here:
                updated = self._updated(_Part(part.step, part.gradient, *here), update)
                for target, value in zip(here, updated, strict=True):
                    assign(target, value, where)

    def _update_rows(self, slot: Slot, gradient: Tensor, update: Update) -> None:
        """The rows that a coalesced sparse gradient names."""
        state = self._state[slot]
        rows = gradient.indices()[0]
        whole = (slot.master, state["exp_avg"], state["exp_avg_sq"])
        # A parameter's pieces take part in the same steps, so any of them has the count of all.
        part = _Part(state["step"][0], gradient.values(), *(take_rows(tensor, rows) for tensor in whole))
        for tensor, target, value in zip(whole, part.targets, self._updated(part, update), strict=True):
            assign(target, value, update.keep)
            put_rows(tensor, rows, target)
        slot.publish(rows)

    def _updated(self, part: _Part, update: Update) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and moments of a part after update number `step` (1 is the first), as new tensors."""
        beta1, beta2 = self._settings.beta1, self._settings.beta2
        gradient = part.gradient.to(torch.float32)
        if update.grad_scale is not None:
            gradient = gradient * update.grad_scale
        # 1 - beta^step, without the cancellation that float32 would suffer at the first steps.
        correction1 = -torch.expm1(part.step * math.log(beta1))
        correction2 = -torch.expm1(part.step * math.log(beta2))
        exp_avg = torch.lerp(part.exp_avg, gradient, 1 - beta1)
        exp_avg_sq = (part.exp_avg_sq * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (exp_avg_sq / correction2).sqrt_().add_(self._settings.eps)
        decayed = part.master * (1 - update.lr * update.weight_decay)
        return decayed.addcdiv_(exp_avg / correction1, denominator, value=-update.lr), exp_avg, exp_avg_sq


def _new_state(slot: Slot) -> dict[str, Tensor]:
    # The counts are needed by every kernel and tiny: they stay on the device.
    step = torch.zeros(len(slot.borders) - 1, dtype=torch.float32, device=slot.device)
    return {"exp_avg": slot.zeros(), "exp_avg_sq": slot.zeros(), "step": step}


@functools.cache
def has_fused_kernel(device: torch.device) -> bool:
    """Whether PyTorch has its fused AdamW kernel for `device`: it is tried on one number."""
    one = [torch.ones(1, device=device) for _ in range(4)]
    step = [torch.zeros((), device=device)]
    try:
        adamw(
            one[:1], one[1:2], one[2:3], one[3:], [], step, fused=True, amsgrad=False, maximize=False,
            lr=0.0, weight_decay=0.0, beta1=0.9, beta2=0.9, eps=1e-8,
        )  # fmt: skip
    except (NotImplementedError, RuntimeError):
        return False
    return True
