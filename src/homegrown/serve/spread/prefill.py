"""An engine that computes prompts for others: it streams their keys, and their first tokens behind these."""

from __future__ import annotations

import queue
from collections.abc import Sequence as Items

import msgspec
from torch import Tensor

from homegrown.serve.engine.buffers import Kind
from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.layout import indices
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.passing import Answer
from homegrown.serve.engine.runner import Runner
from homegrown.serve.engine.scheduler import Plan
from homegrown.serve.engine.sequence import Sequence
from homegrown.serve.engine.served import Served
from homegrown.serve.engine.stretch import Stretch, cell
from homegrown.serve.messages import Output
from homegrown.serve.spread.streams import Connection, Gone, PrefillServer, Stream
from homegrown.serve.spread.transfer import Cancel, Failed, Fetch, First
from homegrown.tokenizer import Tokenizer

SLICE = 4096
"""Rows of keys that were known before, in one message."""


class PrefillEngine(Engine):
    """Computes prompts up to their first tokens. Requests come from `server` and from nowhere else; `step` returns
    nothing.

    Its prompts share their beginnings, wait for each other, and make room for each other as any engine's do.

    Args:
        model, options, tokenizer, runner: as in `Engine`.
        server: where prompts are asked for.
    """

    def __init__(
        self,
        model: Served,
        options: EngineOptions,
        tokenizer: Tokenizer | None,
        runner: Runner | None,
        server: PrefillServer,
    ) -> None:
        super().__init__(model, options, tokenizer, runner)
        self._server = server
        self._streams: dict[str, Stream] = {}
        self._writing: dict[int, Stream] = {}  # whose the pages are that a pass writes
        self._buffers = self._runner.pool.buffers
        self._buffers.watch = self._watch

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return super().idle and self._server.inbox.empty()

    def step(self) -> list[Output]:
        """Take what is asked for, run a pass, and send what came of it."""
        self._hear()
        for output in super().step():
            stream = self._streams.pop(output.id, None) if output.finish else None
            if stream is not None:
                stream.end(Failed(stream.ticket, output.error))
        return []

    def _hear(self) -> None:
        while True:
            try:
                connection, message = self._server.inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, Fetch):
                self._fetch(connection, message)
            elif isinstance(message, Cancel):
                self._cancel(f"{connection.number}/{message.ticket}")
            elif isinstance(message, Gone):
                for name in [name for name, stream in self._streams.items() if stream.connection is connection]:
                    self._cancel(name)

    def _fetch(self, connection: Connection, asked: Fetch) -> None:
        name = f"{connection.number}/{asked.ticket}"
        # The first token's row in the draft block belongs to what is wanted.
        self._streams[name] = Stream(connection, asked.ticket, asked.start, len(asked.request.prompt) + 1)
        self.add(msgspec.structs.replace(asked.request, id=name))

    def _cancel(self, name: str) -> None:
        if self._streams.pop(name, None) is not None:
            self.abort(name)

    def _run(self, plan: Plan) -> Tensor:
        self._writing, size = {}, self._buffers.page_size
        for piece in plan.pieces:
            stream = self._streams[piece.sequence.id]
            if not stream.begun:
                stream.begun = True
                self._send_known(piece.sequence, stream)
            first = piece.sequence.computed
            last = first + piece.count + self._drafts
            written = piece.sequence.pages[first // size : last // size + 1]
            self._writing.update(dict.fromkeys(written, stream))
        return super()._run(plan)

    def _send_known(self, sequence: Sequence, stream: Stream) -> None:
        """Send what came from the prefix cache."""
        for first in range(stream.start, sequence.computed, SLICE):
            stop = min(first + SLICE, sequence.computed)
            stretch = Stretch(first, stop - first, sequence.pages)
            places = [cell(stretch, place, self._buffers.page_size) for place in range(first, stop)]
            index = indices(places, self._buffers.device)
            for kind, slots in self._buffers.kinds:
                for slot, buffer in slots.items():
                    stream.rows(kind, slot, first, buffer.index_select(0, index))
        self._send_states(sequence, stream, stream.start, sequence.computed)
        stream.computed(sequence.computed)

    def _send_states(self, sequence: Sequence, stream: Stream, start: int, stop: int) -> None:
        """Send the states behind the pages of positions start..stop."""
        states, size = self._buffers.states, self._buffers.page_size
        start = max(start, stream.start)
        if states is not None and start < stop:
            pages = sequence.pages[start // size : (stop - 1) // size + 1]
            stream.states(start // size, states.index_select(0, indices(pages, states.device)))

    def _watch(self, kind: Kind, slot: int, stretches: Items[Stretch], rows: Tensor) -> None:
        """Send rows that have just been written."""
        size, passed = self._buffers.page_size, 0
        for stretch in stretches:
            stream = self._writing[stretch.pages[stretch.past // size]]
            stream.rows(kind, slot, stretch.past, rows[passed : passed + stretch.count])
            passed += stretch.count

    def _commit(self, plan: Plan, answers: list[Answer], drafts: dict[str, list[int]]) -> None:
        for piece in plan.pieces:
            sequence = piece.sequence
            self._send_states(sequence, self._streams[sequence.id], sequence.computed, sequence.computed + piece.count)
        super()._commit(plan, answers, drafts)
        for piece in plan.pieces:
            stream = self._streams.get(piece.sequence.id)
            if stream is not None and piece.sequence.prefilling:
                stream.computed(piece.sequence.computed)

    def _take(self, answer: Answer, drafts: list[int]) -> None:
        """A first token ends what there is to do for a prompt."""
        sequence = answer.sequence
        if sequence.choice.error:
            super()._take(answer, drafts)
            return
        stream = self._streams.pop(sequence.id)
        stream.end(
            First(
                ticket=stream.ticket, token=answer.tokens[0], scores=answer.scores, compute=answer.compute,
                drafts=drafts, cached=sequence.usage.cached_tokens,
            )
        )  # fmt: skip
        sequence.computed = len(sequence.tokens)
        sequence.answered(answer.tokens, 0, 0)
        self._scheduler.queue.answered(sequence, 1)
        self._memory.publish(sequence)
        self._end(sequence, Output(id=sequence.id, finish="stop"))
