"""An engine whose prompts are computed elsewhere: keys arrive in its own pages, and it answers."""

from __future__ import annotations

import logging
import queue
from collections import Counter
from dataclasses import dataclass
from math import prod

import msgspec
from torch import Tensor

from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.passing import Answer
from homegrown.serve.engine.runner import Runner
from homegrown.serve.engine.scheduler import Plan
from homegrown.serve.engine.sequence import Sequence
from homegrown.serve.engine.served import Served
from homegrown.serve.engine.stretch import Stretch, cell
from homegrown.serve.grammar import GrammarError
from homegrown.serve.messages import Stats
from homegrown.serve.spread.orders import from_bytes
from homegrown.serve.spread.prompts import Arrival, Lost, Prompts
from homegrown.serve.spread.transfer import Computed, Failed, First, Rows, States
from homegrown.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

PATIENCE_S = 0.02
"""Seconds to wait for keys where there is nothing else to do."""
TAKEN = 512
"""Messages taken between two passes at most, lest those that answer wait for them."""


class NonsenseError(Exception):
    """A message that fits nothing that was asked for; the message says why."""


@dataclass
class Order:
    """A prompt that was asked for.

    Attributes:
        pages: the sequence's, as they were then: others mean that it has made room meanwhile.
        address: who was asked.
    """

    sequence: Sequence
    pages: list[int]
    address: str


class DecodeEngine(Engine):
    """Takes requests as any engine does, with pages for all of a prompt before anything is asked for; then has it
    computed elsewhere, but for the beginning that its own prefix cache knows.

    What does not come, since a connection is lost or a prompt is refused, is computed here from where it broke off, and
    so is what nobody can be asked for; this is logged, and counted in `Stats.lost`. Prompts of which at most `own`
    tokens are left, and those that are to be scored, are computed here anyway.

    Args:
        model, options, tokenizer, runner: as in `Engine`.
        prompts: who computes them.
        own: as said.
    """

    def __init__(
        self,
        model: Served,
        options: EngineOptions,
        tokenizer: Tokenizer | None,
        runner: Runner | None,
        prompts: Prompts,
        own: int = 0,
    ) -> None:
        super().__init__(model, options, tokenizer, runner)
        self._prompts, self._own = prompts, own
        self._orders: dict[int, Order] = {}
        self._last_ticket = 0
        self._deserted = False
        self._pool = self._runner.pool
        self._widths: dict[tuple[str, int], int] = {
            (kind, slot): buffer.shape[1] for kind, slots in self._pool.buffers.kinds for slot, buffer in slots.items()
        }

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do, to tell, or to cancel."""
        return super().idle and not self._orders

    def stats(self) -> Stats:
        """How it is doing."""
        return msgspec.structs.replace(super().stats(), helpers=len(self._prompts.connected))

    def _take_in(self) -> None:
        before = set(self._sequences)
        super()._take_in()
        for name in self._sequences.keys() - before:
            sequence = self._sequences[name]
            sequence.elsewhere = sequence.prompt_scores is None

    def _plan(self) -> Plan:
        self._cancel()
        self._receive(wait=0.0)
        plan = self._schedule()
        if not plan.pieces and self._orders:
            self._receive(wait=PATIENCE_S)
            plan = self._schedule()
        return plan

    def _schedule(self) -> Plan:
        plan = super()._plan()
        self._cancel()
        asked = {order.sequence.id for order in self._orders.values()}
        for sequence in self._scheduler.running.values():
            if sequence.elsewhere and sequence.id not in asked:
                self._ask(sequence)
        return plan

    def _cancel(self) -> None:
        """Nothing may be written to pages that are another sequence's by now: ask no more for those that have ended or
        made room."""
        for ticket, order in list(self._orders.items()):
            running = self._scheduler.running.get(order.sequence.id)
            if running is not order.sequence or running.pages is not order.pages:
                del self._orders[ticket]
                self._prompts.cancel(order.address, ticket)

    def _ask(self, sequence: Sequence) -> None:
        """Have a prompt computed by whoever has least to do; here, if it is short or nobody can be asked."""
        there = self._prompts.connected
        if not there or sequence.left <= self._own:
            sequence.elsewhere = False
            self._alone(sequence, not there)
            return
        self._deserted = False
        busy = Counter(dict.fromkeys(there, 0))
        for order in self._orders.values():
            busy[order.address] += order.sequence.left
        address = min(there, key=lambda address: busy[address])
        self._last_ticket += 1
        self._orders[self._last_ticket] = Order(sequence, sequence.pages, address)
        self._begin(sequence)
        self._prompts.fetch(address, self._last_ticket, sequence.request, sequence.computed)

    def _alone(self, sequence: Sequence, deserted: bool) -> None:
        """A prompt is computed here; say so, once, if that is because nobody can be asked."""
        if deserted and sequence.left > self._own:
            self._counted.lost += 1
            if not self._deserted:
                _log.warning("nobody who computes prompts can be reached: until then, they are computed here")
            self._deserted = True

    def _receive(self, wait: float) -> None:
        for number in range(TAKEN):
            try:
                arrival = self._next(wait if not number else 0.0)
            except queue.Empty:
                return
            try:
                self._arrive(arrival)
            except NonsenseError as error:
                _log.error("%s sends keys that were not asked for: %s", arrival.address, error)
                self._prompts.hang_up(arrival.address)

    def _next(self, wait: float) -> Arrival:
        arrived = self._prompts.arrived
        return arrived.get(timeout=wait) if wait else arrived.get_nowait()

    def _arrive(self, arrival: Arrival) -> None:
        message = arrival.message
        if isinstance(message, Lost):
            for ticket in [ticket for ticket, order in self._orders.items() if order.address == arrival.address]:
                self._give_up(ticket, f"the connection to {arrival.address} is lost ({message.reason})")
            return
        ticket = getattr(message, "ticket", 0)
        order = self._orders.get(ticket)
        if order is None:
            return  # cancelled meanwhile
        if order.address != arrival.address:
            raise NonsenseError(f"ticket {ticket} is somebody else's")
        if isinstance(message, Rows):
            self._write_rows(order, message, arrival.numbers)
        elif isinstance(message, States):
            self._write_states(order, message, arrival.numbers)
        elif isinstance(message, Computed):
            self._computed(order, message.stop)
        elif isinstance(message, First):
            if not 0 <= message.token < self._config.vocab_size:
                raise NonsenseError(f"there is no token {message.token}")
            del self._orders[ticket]
            self._first(order.sequence, message)
        elif isinstance(message, Failed):
            self._give_up(ticket, message.reason)

    def _give_up(self, ticket: int, reason: str) -> None:
        """Compute the rest of a prompt here."""
        sequence = self._orders.pop(ticket).sequence
        sequence.elsewhere = False
        self._counted.lost += 1
        _log.warning("request %s: %d tokens of its prompt are computed here: %s", sequence.id, sequence.left, reason)

    def _write_rows(self, order: Order, message: Rows, numbers: bytes) -> None:
        width = self._widths.get((message.kind, message.slot))
        if width is None:
            raise NonsenseError(f"there are no {message.kind} keys of sublayer {message.slot}")
        rows = self._numbers(numbers, width)
        first, stop, room = message.first, message.first + len(rows), len(order.pages) * self._pool.page_size
        if not order.sequence.computed <= first < stop <= room:
            raise NonsenseError(f"positions {first} to {stop - 1} of a prompt with room for {room}")
        stretch = Stretch(first, len(rows), order.pages)
        cells = [cell(stretch, place, self._pool.page_size) for place in range(first, stop)]
        self._pool.write("latent" if message.kind == "latent" else "index", message.slot, cells, rows)

    def _write_states(self, order: Order, message: States, numbers: bytes) -> None:
        states = self._pool.buffers.states
        if states is None:
            raise NonsenseError("no states are kept here")
        rows = self._numbers(numbers, states.shape[1])
        pages = order.pages[message.first : message.first + len(rows)]
        if message.first < order.sequence.computed // self._pool.page_size or len(pages) != len(rows):
            raise NonsenseError(f"states behind pages {message.first} to {message.first + len(rows) - 1}")
        self._pool.write_states(pages, rows)

    def _numbers(self, numbers: bytes, width: int) -> Tensor:
        dtype = self._pool.buffers.dtype
        if not numbers or len(numbers) % prod((width, dtype.itemsize)):
            raise NonsenseError(f"{len(numbers)} bytes are no rows of {width} numbers")
        return from_bytes(numbers, dtype, width)

    def _computed(self, order: Order, stop: int) -> None:
        """Keys are complete up to a position, before the prompt's end."""
        sequence = order.sequence
        if stop >= sequence.prompt_end:
            raise NonsenseError(f"all {stop} tokens of a prompt are computed, and its first token has not come")
        if stop > sequence.computed:
            self._transferred(sequence, stop)
            sequence.computed = stop
            self._memory.publish(sequence)
            order.pages = sequence.pages  # full ones may be another prompt's by now, with the same keys

    def _transferred(self, sequence: Sequence, stop: int) -> None:
        sequence.usage.transferred += stop - sequence.computed
        self._counted.transferred += stop - sequence.computed

    def _first(self, sequence: Sequence, first: First) -> None:
        """Take the first token as if it had been chosen here, by the request's own random number."""
        choice = sequence.choice
        self._transferred(sequence, sequence.prompt_end)
        sequence.elsewhere = False
        if sequence.usage.cached_tokens < first.cached:
            self._counted.cached_tokens += first.cached - sequence.usage.cached_tokens
            sequence.usage.cached_tokens = first.cached
        if not choice.greedy:
            choice.point()
        try:
            choice.commit(first.token)
        except GrammarError as error:
            choice.fail(f"request {sequence.id}: {error}")
        answer = Answer(sequence, -1, [first.token], 0, first.scores, first.compute, True)
        most = min(self._drafts, max(sequence.longest - len(sequence.tokens) - 2, 0))  # as `draft_batch` has it
        self._take(answer, first.drafts[:most])
