"""Penalties for tokens that were there before, and biases for chosen ones; kept up to date token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from homegrown.serve.messages import Sampling

_ROOM = 64
"""Distinct tokens there is room for at first; doubled when full."""


class Penalties:
    """Lowers the logits of tokens seen earlier in one request.

    With c the times a token stands in the answer, its logit x becomes, in this order:
    1. if it stands in prompt or answer, x / repetition if x > 0, else x * repetition (`transformers`);
    2. x - frequency * c - presence * [c > 0] (OpenAI's API reference).

    Args:
        sampling: the penalties.
        prompt: token ids. They count for the repetition penalty alone.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        seen = sorted(set(prompt)) if sampling.repetition_penalty != 1 else []
        self._slots = {token: slot for slot, token in enumerate(seen)}
        room = max(_ROOM, 2 * len(seen))
        self._ids, self._counts = np.zeros(room, np.int64), np.zeros(room, np.float32)
        self._ids[: len(seen)] = seen

    @staticmethod
    def wanted(sampling: Sampling) -> bool:
        """Whether a request's settings penalise anything."""
        return bool(sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1)

    def count(self, token: int) -> None:
        """Take note of a token of the answer."""
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._ids[slot] = token
        self._counts[slot] += 1

    def apply(self, row: Tensor) -> None:
        """Change logits [V] in place."""
        if not (size := len(self._slots)):
            return
        ids = torch.from_numpy(self._ids[:size]).to(row.device)
        counts = torch.from_numpy(self._counts[:size]).to(row.device)
        logits, repetition = row[ids], self._sampling.repetition_penalty
        logits = torch.where(logits > 0, logits / repetition, logits * repetition)
        row[ids] = logits - self._sampling.frequency_penalty * counts - self._sampling.presence_penalty * (counts > 0)
