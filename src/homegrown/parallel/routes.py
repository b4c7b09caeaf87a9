"""Who goes where: the rows that a dispatch sends, one for each token and member that holds experts it chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Shape suffixes: N tokens, K choices per token, M rows to send, W experts of one member that a token can choose.

Counts = Callable[[Tensor], tuple[list[int], list[int]]]
"""Rows for each member, int64 [members] -> the same, and rows from each member, on the host."""


class Route(NamedTuple):
    """The rows to send, by destination, then by token.

    Attributes:
        token_M: the token that each row carries.
        pair_MW: its pairs n·K + k there, in the order of choices; N·K where there are fewer than W.
        number_MW: the experts' numbers among those of the destination; their count where there is none.
        by_token_M: the rows by token, then by destination.
        start_N: where each token's rows begin in that order.
        send, receive: rows to and from each member.
    """

    token_M: Tensor
    pair_MW: Tensor
    number_MW: Tensor
    by_token_M: Tensor
    start_N: Tensor
    send: list[int]
    receive: list[int]


def find_route(index_NK: Tensor, members: int, each: int, counts: Counts) -> Route:
    """Where tokens go whose experts lie on `members` members, `each` consecutive ones on each.

    Everything comes out of stable sorts and gathers: the same choices give the same route on any device.

    Args:
        index_NK: int64 expert numbers; numbers from members · each up are no experts and lead nowhere.
        members, each: how many hold experts, and how many each.
        counts: settles how many rows are sent and received. Everything that waits for the device is in it.
    """
    choices, pairs = index_NK.shape[1], index_NK.numel()
    nowhere = members
    member_NK = (index_NK // each).clamp(max=nowhere)
    # A token goes to a member once, for the first of the choices that lead there.
    twice_NKK = (member_NK[:, :, None] == member_NK[:, None, :]).tril(-1)
    first_NK = ~twice_NKK.any(-1) & (member_NK < nowhere)
    member, order = torch.where(first_NK, member_NK, nowhere).flatten().sort(stable=True)
    borders = torch.searchsorted(member, torch.arange(members + 1, device=member.device))
    send, receive = counts(borders.diff())

    rows = sum(send)
    token_M, member_M = order[:rows] // choices, member[:rows]
    here_MK = member_NK.index_select(0, token_M) == member_M[:, None]
    pair_MK = token_M[:, None] * choices + torch.arange(choices, device=token_M.device)
    pair_MW = torch.where(here_MK, pair_MK, pairs).sort(-1).values[:, : min(choices, each)]
    chosen_MW = F.pad(index_NK.flatten(), (0, 1))[pair_MW] - member_M[:, None] * each
    number_MW = torch.where(pair_MW < pairs, chosen_MW, each)
    rows_N = first_NK.sum(1)
    return Route(token_M, pair_MW, number_MW, token_M.argsort(stable=True), rows_N.cumsum(0) - rows_N, send, receive)


def sum_rows(rows_MH: Tensor, by_token_M: Tensor, start_N: Tensor) -> Tensor:
    """Each token's rows, added up in the order of their destinations: [N, H]."""
    return F.embedding_bag(by_token_M, rows_MH, start_N, mode="sum")
