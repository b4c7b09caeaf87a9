"""Global batches as a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from homegrown.data.errors import DatasetError
from homegrown.data.order import epoch_keys, mix, permute
from homegrown.data.shards import Split

ALL_ROWS = slice(None)


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents. Inputs are `tokens[:, :-1]`, targets `tokens[:, 1:]`.

    A target counts only if it belongs to the document of its input: `first[:, 1:] == first[:, :-1]`. Attention of
    position i sees positions first[i]..i.
    """

    tokens: NDArray[np.int64]
    """[B, S+1]"""
    first: NDArray[np.int64]
    """[B, S+1]: index in the row of the first token of the document each position belongs to; 0 if the document began
    before the row."""


class Batches:
    """The global order of training windows.

    The split's tokens form a ring. In each epoch it is cut, from a new random offset on, into `windows` windows of
    `seq_len` targets; each is a row once, in a new random order. (Fewer than `seq_len` tokens are left over, others
    each epoch.) Batches follow one another through the epochs without a seam: a batch may hold the end of one epoch
    and the beginning of the next.

    Nothing is kept between calls, so any step can be asked for at any time, and every data-parallel rank takes its
    `rows` of the same global batch, however many ranks there are.

    Args:
        split: the tokens.
        seq_len: S, targets a row.
        global_batch: rows a step over all ranks.
        seed: another seed gives another order.

    Raises:
        DatasetError: the split is shorter than one window.
    """

    def __init__(self, split: Split, *, seq_len: int, global_batch: int, seed: int) -> None:
        if seq_len < 1 or global_batch < 1:
            raise ValueError(f"seq_len = {seq_len}, global_batch = {global_batch}: both must be at least 1")
        if split.tokens < seq_len + 1:
            raise DatasetError(
                f"the {split.name} split has {split.tokens} tokens, fewer than one window of "
                f"seq_len + 1 = {seq_len + 1}: use more text or shorter sequences"
            )
        self.windows = split.tokens // seq_len
        """Rows an epoch."""
        self._split = split
        self._seq_len = seq_len
        self._global_batch = global_batch
        self._seed = seed

    def epoch(self, step: int) -> float:
        """How many times the split has been gone through before `step`."""
        return step * self._global_batch / self.windows

    def batch(self, step: int, rows: slice = ALL_ROWS) -> Batch:
        """The batch of `step`, or the given rows of it.

        Args:
            step: from 0 on.
            rows: which of the `global_batch` rows; the others are not even looked at.
        """
        if step < 0:
            raise ValueError(f"step {step}: must not be negative")
        chosen = range(self._global_batch)[rows]
        tokens = np.empty((len(chosen), self._seq_len + 1), np.int64)
        for row, start in zip(tokens, self.starts(step, chosen).tolist(), strict=True):
            self._split.copy_into(row, start)
        return Batch(tokens, _first(tokens, self._split.bos_id))

    def starts(self, step: int, rows: range) -> NDArray[np.uint64]:
        """[B]: where in the ring of tokens the given rows of a step begin."""
        samples = step * self._global_batch + np.array(rows, np.uint64)
        epochs, index = np.divmod(samples, np.uint64(self.windows))
        keys = epoch_keys(self._seed, epochs)
        offsets = mix(keys) % np.uint64(self._split.tokens)
        windows = permute(index, keys, self.windows)
        return (offsets + windows * np.uint64(self._seq_len)) % np.uint64(self._split.tokens)


def _first(tokens: NDArray[np.int64], bos_id: int) -> NDArray[np.int64]:
    """Each document in the shards begins with BOS and has no other, so the latest BOS is the document's first token."""
    began = np.where(tokens == bos_id, np.arange(tokens.shape[1]), 0)
    return np.maximum.accumulate(began, axis=1)
