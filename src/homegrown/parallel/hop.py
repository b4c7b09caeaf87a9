"""One hop of tokens to where their experts are and of the experts' outputs back, differentiable and asynchronous.

A hop is four autograd functions around two trips. Between the two ends of a trip only a ticket, a number without
meaning, goes through the graph, so the graph's order is the order of the traffic: what runs between the ends, forward
or backward, overlaps with it.

    send     _Dispatch   rows depart                 their gradients come home
    arrive   _Arrival    rows arrive                 their gradients turn back
    give     _Return     outputs depart              their gradients come home
    receive  _Receipt    outputs arrive, are summed  their gradients turn back
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from homegrown.parallel.collectives import start_exchange
from homegrown.parallel.groups import Group
from homegrown.parallel.routes import Route, find_route, sum_rows
from homegrown.parallel.trip import Trip

# Shape suffixes: N tokens, K choices per token, H hidden; M rows sent, R rows that arrive, W pairs of a row.

KEPT_ARRIVALS = 4096
"""Arrivals that a hop remembers for the figures of a step."""


class Sent(NamedTuple):
    """Tokens under way to their experts."""

    ticket: Tensor
    trip: Trip
    route: Route
    width: int
    cards: torch.dtype


class Given(NamedTuple):
    """Outputs under way to their tokens."""

    ticket: Tensor
    trip: Trip
    route: Route


class Hop:
    """Tokens travel once to every member of a group that holds experts they chose, with the experts' numbers and their
    gates; one row comes back from each, and a token's rows add up in the order of the members.

    Args:
        group: its members hold the experts, consecutive ones each.
        each: experts of a member.
        overlap: let traffic overlap with what the caller does between the phases; the bits are the same.
        planned: for tensors without numbers, the share of the tokens that goes to each member; `None` for real ones.

    Attributes:
        arrived: rows that arrived in each of the last dispatches.
    """

    def __init__(self, group: Group, each: int, overlap: bool, planned: float | None = None) -> None:
        self.group, self.each, self.overlap, self.planned = group, each, overlap, planned
        self.arrived: deque[int] = deque(maxlen=KEPT_ARRIVALS)

    def send(self, x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor) -> Sent:
        """Tokens set off. The host waits here, once: sizes of messages are its to give."""
        route = find_route(index_NK, self.group.size, self.each, lambda send: self._counts(send, index_NK.shape))
        self.arrived.append(sum(route.receive))
        trip = Trip(self.group, route.send, route.receive, self.overlap)
        ticket = _Dispatch.apply(x_NH, gate_NK, route, trip)
        return Sent(ticket, trip, route, x_NH.shape[1], _card_dtype(x_NH, gate_NK))

    def arrive(self, sent: Sent) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [R, H] of tokens that chose experts of this member, those experts' numbers [R, W], and their gates."""
        rows_RH, number_RW, gate_RW = _Arrival.apply(sent.ticket, sent.trip, sent.width, sent.cards)
        return rows_RH, number_RW, gate_RW

    def give(self, sent: Sent, out_RH: Tensor) -> Given:
        """Outputs for the rows that arrived set off to where those came from."""
        trip = Trip(self.group, sent.route.receive, sent.route.send, self.overlap)
        return Given(_Return.apply(out_RH, trip), trip, sent.route)

    def receive(self, given: Given) -> Tensor:
        """Each token's sum, [N, H]."""
        out_NH: Tensor = _Receipt.apply(given.ticket, given.trip, given.route)
        return out_NH

    def _counts(self, send: Tensor, shape: torch.Size) -> tuple[list[int], list[int]]:
        """Rows to and from each member. Each member is told how many come from here."""
        ones = [1] * self.group.size
        receive = start_exchange(send, self.group, ones, ones).wait()
        if self.planned is not None:
            tokens, choices = shape
            even = min(math.ceil(tokens * self.planned), tokens * choices // self.group.size)
            return [even] * self.group.size, [even] * self.group.size
        sent, received = torch.stack((send, receive)).tolist()
        return sent, received


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, gate_NK: Tensor, route: Route, trip: Trip) -> Tensor:
        cards = _card_dtype(x_NH, gate_NK)
        gates = torch.cat((gate_NK.to(cards).flatten(), gate_NK.new_zeros(1, dtype=cards)))
        number_MW, gate_MW = route.number_MW.to(cards), gates[route.pair_MW]
        message = _message(x_NH, torch.cat((number_MW, gate_MW), dim=1))
        torch.index_select(x_NH, 0, route.token_M, out=message[:, : x_NH.shape[1]])
        trip.depart(message)
        ctx.save_for_backward(route.pair_MW, route.by_token_M, route.start_N)
        ctx.trip, ctx.width, ctx.cards, ctx.gates = trip, x_NH.shape[1], cards, gate_NK.shape
        ctx.gate_dtype = gate_NK.dtype
        return x_NH.new_zeros(())

    @staticmethod
    def backward(ctx: Any, ticket: Tensor) -> tuple[Tensor, Tensor, None, None]:
        pair_MW, by_token_M, start_N = ctx.saved_tensors
        grad_MH, grad_MW = _unpack(ctx.trip.come_home(), ctx.width, ctx.cards)
        # Each pair stands in one row; the places left over meet in a number that is thrown away.
        grad_gate = grad_MW.new_zeros(ctx.gates.numel() + 1).index_copy_(0, pair_MW.flatten(), grad_MW.flatten())
        grad_NK = grad_gate[:-1].view(ctx.gates).to(ctx.gate_dtype)
        return sum_rows(grad_MH, by_token_M, start_N), grad_NK, None, None


class _Arrival(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ticket: Tensor, trip: Trip, width: int, cards: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        rows_RH, card_RW = _unpack(trip.arrive(), width, cards)
        number_RW, gate_RW = card_RW.chunk(2, dim=1)
        ctx.trip = trip
        number_RW = number_RW.to(torch.int64)
        ctx.mark_non_differentiable(number_RW)
        return rows_RH, number_RW, gate_RW

    @staticmethod
    def backward(ctx: Any, grad_RH: Tensor, _: Any, grad_RW: Tensor) -> tuple[Tensor, None, None, None]:
        message = _message(grad_RH, grad_RW)
        message[:, : grad_RH.shape[1]] = grad_RH
        ctx.trip.turn_back(message)
        return grad_RH.new_zeros(()), None, None, None


class _Return(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out_RH: Tensor, trip: Trip) -> Tensor:
        trip.depart(out_RH)
        ctx.trip = trip
        return out_RH.new_zeros(())

    @staticmethod
    def backward(ctx: Any, ticket: Tensor) -> tuple[Tensor, None]:
        return ctx.trip.come_home(), None


class _Receipt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ticket: Tensor, trip: Trip, route: Route) -> Tensor:
        ctx.save_for_backward(route.token_M)
        ctx.trip = trip
        return sum_rows(trip.arrive(), route.by_token_M, route.start_N)

    @staticmethod
    def backward(ctx: Any, grad_NH: Tensor) -> tuple[Tensor, None, None]:
        ctx.trip.turn_back(grad_NH.index_select(0, ctx.saved_tensors[0]))
        return grad_NH.new_zeros(()), None, None


# A row and its card travel in one message, in the row's dtype; the card's bits are only reinterpreted.


def _card_dtype(x_NH: Tensor, gate_NK: Tensor) -> torch.dtype:
    """What gates travel in, and experts' numbers with them: float32 counts exactly up to 2²⁴."""
    return torch.promote_types(torch.promote_types(x_NH.dtype, gate_NK.dtype), torch.float32)


def _message(like_H: Tensor, card_MC: Tensor) -> Tensor:
    """Cards with room before each for a row."""
    bits = card_MC.contiguous().view(like_H.dtype)
    message = like_H.new_empty(bits.shape[0], like_H.shape[1] + bits.shape[1])
    message[:, like_H.shape[1] :] = bits
    return message


def _unpack(message: Tensor, width: int, cards: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows and cards."""
    return message[:, :width], message[:, width:].contiguous().view(cards)
