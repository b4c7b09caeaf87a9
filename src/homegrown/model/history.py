"""The tokens that n-gram hashing looks back over."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class History(NamedTuple):
    """Consecutive tokens of each row, the new ones among them.

    Attributes:
        tokens: int64 [B, L], negative where a row has not begun.
        place: int64 [B, L]: the place of each token in its document, where it matters: how far one may look back.
        new: which of the L columns are the new tokens: int64 [S], or a slice.
    """

    tokens: Tensor
    place: Tensor
    new: Tensor | slice

    @classmethod
    def after(cls, earlier: Tensor, tokens: Tensor, positions: Tensor) -> History:
        """New tokens, int64 [B, S] at `positions` in their documents, behind `earlier` ones, int64 [B, P]."""
        place = F.pad(positions, (earlier.shape[1], 0))
        return cls(torch.cat((earlier, tokens), dim=1), place, slice(earlier.shape[1], None))

    def moved(self, ahead: int) -> History:
        """The same tokens, said to stand `ahead` places further in their documents."""
        return self._replace(place=self.place + ahead)
