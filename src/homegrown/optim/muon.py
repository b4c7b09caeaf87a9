"""Muon: momentum, orthogonalised, as the update of whole matrices (Keller Jordan 2024; scaling of arXiv 2502.16982)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.optim.newton_schulz import orthogonalize
from homegrown.optim.slots import CHUNK_NUMBERS, Slot, Update, assign, brought, in_chunks


@dataclass(frozen=True)
class _Stack:
    """Some of the matrices of a slot, as views `[n, rows, cols]` with rows <= cols."""

    slot: Slot
    start: int
    stop: int
    master: Tensor
    momentum: Tensor

    def gradient(self) -> Tensor:
        gradient = self.slot.gradient
        if gradient is None or gradient.is_sparse:
            raise ValueError(f"parameter {self.slot.name!r}: Muon needs a dense gradient")
        return _matrices(gradient)[self.start : self.stop]


class Muon:
    """Muon over stacked matrices.

    M ← lerp(M, G, 1 - momentum); U = lerp(G, M, momentum) with Nesterov momentum, else M;
    W ← (1 - lr * decay) W - lr * 0.2 sqrt(max(rows, cols)) * orthogonalize(U), all of it in float32 but the products
    inside `orthogonalize`. The factor gives every update the RMS 0.2 that AdamW's updates typically have, whatever
    the matrix's size.

    Matrices of equal size, of one parameter or of several, transposed or not, go through the iteration together.

    Args:
        slots: rows of parameters of at least two axes; the last two are a matrix, so a slot of two axes is a whole one.
        momentum: in [0, 1).
        nesterov: look ahead along the new momentum.
        steps: Newton-Schulz iterations.
        dtype: of the Newton-Schulz products.
    """

    def __init__(
        self, slots: Sequence[Slot], *, momentum: float, nesterov: bool, steps: int, dtype: torch.dtype
    ) -> None:
        self.slots = list(slots)
        self._momentum = momentum
        self._nesterov = nesterov
        self._steps = steps
        self._dtype = dtype
        self._momenta = {slot: slot.zeros() for slot in self.slots}
        self._chunks = list(_chunks(_stacks(self._momenta)))

    @property
    def label(self) -> str:
        """How the update is computed, for the table shown at start."""
        return f"Muon, {self._steps} steps in {str(self._dtype).removeprefix('torch.')}"

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """The state kept for `slot`: `momentum`, of its master's shape."""
        return {"momentum": self._momenta[slot]}

    def step(self, update: Update) -> None:
        """One update of every slot that has a gradient.

        Raises:
            ValueError: a gradient is sparse.
        """
        for chunk in self._chunks:
            present = [stack for stack in chunk if stack.slot.gradient is not None]
            if present:
                self._step_chunk(present, update)
        for slot in self.slots:
            if slot.gradient is not None:
                slot.publish()

    def _step_chunk(self, stacks: list[_Stack], update: Update) -> None:
        device = stacks[0].slot.device
        kept = [stack.master for stack in stacks] + [stack.momentum for stack in stacks]
        with brought(kept, device) as here:
            masters, momenta = here[: len(stacks)], here[len(stacks) :]
            gradient = torch.cat([stack.gradient() for stack in stacks]).to(torch.float32)
            if update.grad_scale is not None:
                gradient.mul_(update.grad_scale)
            momentum = torch.cat(momenta).lerp_(gradient, 1 - self._momentum)
            blend = gradient.lerp_(momentum, self._momentum) if self._nesterov else momentum
            direction = orthogonalize(blend, self._steps, self._dtype)
            alpha = -update.lr * 0.2 * max(direction.shape[-2:]) ** 0.5
            counts = [stack.stop - stack.start for stack in stacks]
            new = zip(momentum.split(counts), direction.split(counts), strict=True)
            for old_momentum, master, (new_momentum, step) in zip(momenta, masters, new, strict=True):
                assign(old_momentum, new_momentum, update.keep)
                decayed = master * (1 - update.lr * update.weight_decay)
                assign(master, decayed.add_(step, alpha=alpha), update.keep)


def _matrices(tensor: Tensor) -> Tensor:
    """A view `[n, rows, cols]` with rows <= cols of the matrices stacked in `tensor`."""
    stacked = tensor.reshape(-1, *tensor.shape[-2:])
    return stacked.mT if stacked.shape[1] > stacked.shape[2] else stacked


def _stacks(momenta: Mapping[Slot, Tensor]) -> Iterator[_Stack]:
    for slot, of_slot in momenta.items():
        master, momentum = _matrices(slot.master), _matrices(of_slot)
        size = max(1, CHUNK_NUMBERS // master[0].numel())
        for start in range(0, len(master), size):
            stop = min(start + size, len(master))
            yield _Stack(slot, start, stop, master[start:stop], momentum[start:stop])


def _chunks(stacks: Iterable[_Stack]) -> Iterator[list[_Stack]]:
    """Stacks of equal matrix size together, in chunks of bounded size."""
    by_size: dict[torch.Size, list[_Stack]] = defaultdict(list)
    for stack in stacks:
        by_size[stack.master.shape[1:]].append(stack)
    for same_size in by_size.values():
        yield from in_chunks(same_size, lambda stack: stack.master.numel())
