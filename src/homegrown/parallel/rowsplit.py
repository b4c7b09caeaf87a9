"""How a row of positions is cut among the ranks that share it: in a zig-zag over cp, in slices over tp."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown.model import History
from homegrown.parallel.layout import Layout


@dataclass(frozen=True)
class RowSplit:
    """One rank's share of rows of `length` positions.

    Rows are lengthened to a multiple of the layout's unit. With 2 · cp equal chunks, cp rank c takes chunks c and
    2 · cp − 1 − c, one that sees few keys and one that sees many, so that all cp ranks have the same causal work. These
    two, side by side, are its *context* positions; tp rank t holds the t-th of tp equal slices of them, its *own*.

    Attributes:
        length: positions of a row, before it is lengthened.
        layout: who is who.
        rank: this rank.
    """

    length: int
    layout: Layout
    rank: int

    @cached_property
    def padded(self) -> int:
        """Positions of a lengthened row."""
        unit = self.layout.sequence_unit
        return -(-self.length // unit) * unit

    @cached_property
    def context_runs(self) -> tuple[range, ...]:
        """The positions that this rank's tp group works on together, as runs of neighbours."""
        cp, place = self.layout.cp, self.layout.place(self.rank)
        if cp == 1:
            return (range(self.padded),)
        chunk = self.padded // (2 * cp)
        return tuple(range(number * chunk, (number + 1) * chunk) for number in (place.cp, 2 * cp - 1 - place.cp))

    @cached_property
    def own(self) -> slice:
        """Which of the context positions are this rank's own."""
        each = self.padded // (self.layout.cp * self.layout.tp)
        tp = self.layout.place(self.rank).tp
        return slice(tp * each, (tp + 1) * each)

    @cached_property
    def own_runs(self) -> tuple[range, ...]:
        """This rank's own positions, as runs of neighbours."""
        runs, passed = [], 0
        for run in self.context_runs:
            part = run[max(self.own.start - passed, 0) : max(self.own.stop - passed, 0)]
            passed += len(run)
            if part:
                runs.append(part)
        return tuple(runs)

    def take(self, x_BS: Tensor, fill: int) -> Tensor:
        """The columns of x [B, S] at this rank's own positions, `fill` beyond S."""
        longer = F.pad(x_BS, (0, self.padded - self.length), value=fill)
        return longer[:, columns(self.own_runs).to(x_BS.device)]

    def in_order(self, x: Tensor) -> Tensor:
        """[B, padded, ...], the cp ranks' context positions side by side -> in the order of the row."""
        cp = self.layout.cp
        if cp == 1:
            return x
        chunks = x.chunk(2 * cp, dim=1)
        return torch.cat([chunks[2 * number] for number in range(cp)] + list(chunks[::-2]), dim=1)

    def history(self, tokens_BS: Tensor, places_Bs: Tensor, ahead: int, back: int, fill: int) -> History:
        """The tokens `ahead` places beyond the own positions, each run of them behind the `back` tokens before it.

        Args:
            tokens_BS: int64, whole rows, of `length` tokens or more.
            places_Bs: int64, each new token's place in its document.
            ahead, back: as said.
            fill: the token beyond the end of the rows.
        """
        longer = F.pad(tokens_BS, (0, max(0, self.padded + ahead - tokens_BS.shape[1])), value=fill)
        longer = F.pad(longer, (back, 0), value=-1)
        windows = [range(run.start + ahead, run.stop + ahead + back) for run in self.own_runs]
        tokens = longer[:, columns(windows).to(longer.device)]
        # A window is `back` old tokens and then a run of new ones.
        new, passed = [], 0
        for window in windows:
            new.append(range(passed + back, passed + len(window)))
            passed += len(window)
        index = columns(new).to(longer.device)
        return History(tokens, torch.zeros_like(tokens).index_copy(1, index, places_Bs), index)


def columns(runs: Iterable[range]) -> Tensor:
    """The numbers of several ranges, one after the other: int64, on the host."""
    return torch.cat([torch.arange(run.start, run.stop) for run in runs])
