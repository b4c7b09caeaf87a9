"""Muon: momentum, orthogonalised, as the update of whole matrices (Keller Jordan 2024; scaling of arXiv 2502.16982)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.optim.newton_schulz import orthogonalize
from homegrown.optim.slots import CHUNK_NUMBERS, Slot, Update, assign, in_chunks


@dataclass(frozen=True)
class _Piece:
    """Some of the matrices stacked in a slot, as views `[n, rows, cols]` with rows <= cols."""

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
        slots: parameters of at least two axes; the last two are a matrix.
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
        self._state = {slot.name: torch.zeros_like(slot.master) for slot in self.slots}
        self._chunks = list(_chunks(_pieces(self.slots, self._state)))

    @property
    def label(self) -> str:
        """How the update is computed, for the table shown at start."""
        return f"Muon, {self._steps} steps in {str(self._dtype).removeprefix('torch.')}"

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """The state kept for `slot`: `momentum`, of the weight's shape."""
        return {"momentum": self._state[slot.name]}

    def step(self, update: Update) -> None:
        """One update of every slot that has a gradient.

        Raises:
            ValueError: a gradient is sparse.
        """
        for chunk in self._chunks:
            present = [piece for piece in chunk if piece.slot.gradient is not None]
            if present:
                self._step_chunk(present, update)
        for slot in self.slots:
            if slot.gradient is not None:
                slot.publish()

    def _step_chunk(self, pieces: list[_Piece], update: Update) -> None:
        gradient = torch.cat([piece.gradient() for piece in pieces]).to(torch.float32)
        if update.grad_scale is not None:
            gradient.mul_(update.grad_scale)
        momentum = torch.cat([piece.momentum for piece in pieces]).lerp_(gradient, 1 - self._momentum)
        blend = gradient.lerp_(momentum, self._momentum) if self._nesterov else momentum
        direction = orthogonalize(blend, self._steps, self._dtype)
        alpha = -update.lr * 0.2 * max(direction.shape[-2:]) ** 0.5
        counts = [piece.stop - piece.start for piece in pieces]
        for piece, new_momentum, step in zip(pieces, momentum.split(counts), direction.split(counts), strict=True):
            assign(piece.momentum, new_momentum, update.keep)
            decayed = piece.master * (1 - update.lr * update.weight_decay)
            assign(piece.master, decayed.add_(step, alpha=alpha), update.keep)


def _matrices(tensor: Tensor) -> Tensor:
    """A view `[n, rows, cols]` with rows <= cols of the matrices stacked in `tensor`."""
    stacked = tensor.reshape(-1, *tensor.shape[-2:])
    return stacked.mT if stacked.shape[1] > stacked.shape[2] else stacked


def _pieces(slots: Sequence[Slot], state: dict[str, Tensor]) -> Iterator[_Piece]:
    for slot in slots:
        master, momentum = _matrices(slot.master), _matrices(state[slot.name])
        size = max(1, CHUNK_NUMBERS // master[0].numel())
        for start in range(0, len(master), size):
            stop = min(start + size, len(master))
            yield _Piece(slot, start, stop, master[start:stop], momentum[start:stop])


def _chunks(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces of equal matrix size together, in chunks of bounded size."""
    by_size: dict[torch.Size, list[_Piece]] = defaultdict(list)
    for piece in pieces:
        by_size[piece.master.shape[1:]].append(piece)
    for same_size in by_size.values():
        yield from in_chunks(same_size, lambda piece: piece.master.numel())
