"""An answer as the events of the Messages API. There is one encoder, and it streams: see `fold` for whole messages."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from homegrown.serve.api.anthropic.errors import body
from homegrown.serve.api.seal import Seal
from homegrown.serve.errors import ApiError
from homegrown.serve.events import (
    Begun,
    CallArguments,
    CallBegun,
    CallEnded,
    Ended,
    Event,
    Failed,
    Reasoning,
    Text,
)

Wire = dict[str, Any]
"""An event as it is sent: `type` and what belongs to it."""

PING: Wire = {"type": "ping"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the encoder must know of the request.

    Attributes:
        model: as the client named it.
        prompt_tokens: known before the first token is.
        silent: only compute the prompt; the answer, of one token, is left out.
        narrow: it is the context that ends an answer which is cut off, not a limit of its own.
        show_thinking: give the text of thinking, not only its seal.
        request_id: for errors.
    """

    model: str
    prompt_tokens: int
    silent: bool = False
    narrow: bool = False
    show_thinking: bool = True
    request_id: str


class Encoder:
    """Turns the service's events into wire events, in the order that the API promises.

    `message_start`, `ping`; blocks one after the other, each of `content_block_start`, any number of
    `content_block_delta`, `content_block_stop`; `message_delta`, `message_stop`.
    """

    def __init__(self, asked: Asked, seal: Seal) -> None:
        self._asked, self._seal = asked, seal
        self._started = False
        self._open: Literal["text", "thinking", "tool_use"] | None = None
        self._blocks = 0
        self._said = False  # anything but thinking
        self._thought: list[str] = []

    def start(self, begun: Begun | None = None) -> list[Wire]:
        """The beginning, once; without `begun` the figures of the cache are those of the end."""
        if self._started:
            return []
        self._started = True
        asked = self._asked
        usage = _usage(asked.prompt_tokens, begun.cached_tokens if begun else 0, 0)
        message: Wire = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return [{"type": "message_start", "message": message}, PING]

    def push(self, event: Event) -> list[Wire]:
        """What the client is told of an event.

        Raises:
            ApiError: the service failed; `fail` tells the client.
        """
        match event:
            case Begun():
                return self.start(event)
            case Failed(kind, message):
                raise ApiError(kind, message)
            case Ended():
                return self.start() + self._end(event)
        return self.start() + ([] if self._asked.silent else self._content(event))

    def fail(self, error: ApiError) -> list[Wire]:
        """The end of a stream that cannot be carried on: what is open is closed before the error is told."""
        return [*self._close(), body(error, self._asked.request_id)]

    def _content(self, event: Event) -> list[Wire]:
        match event:
            case Reasoning(_, text):
                wires = self._begin("thinking", {"thinking": "", "signature": ""})
                self._thought.append(text)
                return [*wires, self._delta("thinking", text)] if self._asked.show_thinking else wires
            case Text(_, text):
                return [*self._begin("text", {"text": ""}), self._delta("text", text)]
            case CallBegun(_, _, name):
                self._said = True
                call = {"id": f"toolu_{secrets.token_hex(12)}", "name": name, "input": {}}
                return [*self._close(), *self._begin("tool_use", call)]
            case CallArguments(_, text):
                return [self._delta("input_json", text)]
            case CallEnded():
                return self._close()
        return []

    def _begin(self, kind: Literal["text", "thinking", "tool_use"], content: Wire) -> list[Wire]:
        """Open a block, unless one of the kind is open."""
        if self._open == kind:
            return []
        closed = self._close()
        self._open, self._said = kind, self._said or kind != "thinking"
        block = {"type": kind, **content}
        return [*closed, {"type": "content_block_start", "index": self._blocks, "content_block": block}]

    def _close(self) -> list[Wire]:
        """Close the open block, if there is one; thinking is signed."""
        if self._open is None:
            return []
        wires: list[Wire] = []
        if self._open == "thinking":
            thought = "".join(self._thought)
            signature = self._seal.sign(thought) if self._asked.show_thinking else self._seal.seal(thought)
            wires.append(self._delta("signature", signature))
            self._thought.clear()
        wires.append({"type": "content_block_stop", "index": self._blocks})
        self._open, self._blocks = None, self._blocks + 1
        return wires

    def _delta(self, kind: str, text: str) -> Wire:
        field = "partial_json" if kind == "input_json" else kind
        delta = {"type": f"{kind}_delta", field: text}
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}

    def _end(self, ended: Ended) -> list[Wire]:
        wires = self._close()
        if not (self._said or self._asked.silent):
            wires += [*self._begin("text", {"text": ""}), *self._close()]
        used = ended.usage
        usage = _usage(used.prompt_tokens, used.cached_tokens, 0 if self._asked.silent else used.completion_tokens)
        usage["output_tokens_details"] = {"thinking_tokens": ended.reasoning_tokens}
        delta = {"stop_reason": self._stop_reason(ended), "stop_sequence": ended.stop}
        return [*wires, {"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]

    def _stop_reason(self, ended: Ended) -> str:
        if self._asked.silent:
            return "max_tokens"
        if ended.reason == "calls":
            return "tool_use"
        if ended.reason == "stop":
            return "end_turn" if ended.stop is None else "stop_sequence"
        return "model_context_window_exceeded" if self._asked.narrow else "max_tokens"


def frame(wires: Iterable[Wire]) -> bytes:
    """Wire events as server-sent events."""
    return b"".join(b"event: %s\ndata: %s\n\n" % (wire["type"].encode(), msgspec.json.encode(wire)) for wire in wires)


def _usage(prompt: int, cached: int, output: int) -> Wire:
    """Input is what was neither read from the cache nor, at a price of its own, written to it: nothing is."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }
