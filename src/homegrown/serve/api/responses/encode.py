"""An answer as the events of the Responses API, which are also what whole responses are made of."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from homegrown.serve.api.openai.logprobs import TokenBytes, chat_logprobs
from homegrown.serve.api.responses.parts import CustomCall, FunctionCall, Message, Part, Reasoning
from homegrown.serve.api.responses.tools import Toolbox
from homegrown.serve.api.seal import Seal
from homegrown.serve.errors import ApiError, Kind
from homegrown.serve.events import CallArguments, CallBegun, CallEnded, Ended, Event, Failed, Scores, Text
from homegrown.serve.events import Reasoning as Thought
from homegrown.serve.messages import Usage

Wire = dict[str, Any]
"""An event as it is sent."""

_CODES: dict[Kind, str] = {
    "invalid": "invalid_prompt",
    "context_length": "context_length_exceeded",
    "quota": "insufficient_quota",
    "rate_limit": "rate_limit_exceeded",
    "overloaded": "rate_limit_exceeded",
    "unavailable": "rate_limit_exceeded",
}
"""Those that clients act upon; everything else is `server_error`."""

_WAIT_S = 1.5
"""When to try again, where the error does not say."""


class Encoder:
    """Turns the service's events into wire events, in the order that the API promises.

    `response.created`, `response.in_progress`; items one after the other, each from `response.output_item.added` to
    `response.output_item.done`; `response.completed`, `.incomplete` or `.failed`.

    Args:
        response: of `opening`.
        toolbox: the request's tools.
        summary: tell thinking as a summary.
        seal: where the client wants its thinking sealed, to hand it back.
        token_bytes: the bytes of a token, for log probabilities.

    Attributes:
        response: as it is so far; with the last event the whole response.
    """

    def __init__(
        self, response: Wire, toolbox: Toolbox, summary: bool, seal: Seal | None, token_bytes: TokenBytes
    ) -> None:
        self.response = response
        self._toolbox, self._summary, self._seal, self._token_bytes = toolbox, summary, seal, token_bytes
        self._scores: list[Wire] = []
        self._sequence = 0
        self._part: Part | None = None

    def start(self) -> list[Wire]:
        """The beginning, once."""
        if self._sequence:
            return []
        response = {**self.response, "output": []}
        return [self._numbered({"type": f"response.{name}", "response": response}) for name in _BEGINNING]

    def push(self, event: Event) -> list[Wire]:
        """What the client is told of an event.

        Raises:
            ApiError: the service failed; `fail` tells the client.
        """
        if isinstance(event, Failed):
            raise ApiError(event.kind, event.message)
        return self.start() + [self._numbered(wire) for wire in self._news(event)]

    def fail(self, error: ApiError) -> list[Wire]:
        """The end of a response that cannot be carried on."""
        closed = self._close("incomplete")
        self.response["error"] = {"code": _CODES.get(error.kind, "server_error"), "message": _message(error)}
        return [self._numbered(wire) for wire in (*closed, self._finish("failed"))]

    def cancel(self) -> None:
        """The end of a response that nobody wants any more."""
        self._close("incomplete")
        self._finish("cancelled")

    def _news(self, event: Event) -> list[Wire]:
        match event:
            case Thought(_, text):
                return [*self._continue(Reasoning), *self._add(text)]
            case Scores(_, tokens):
                self._scores += chat_logprobs(tokens, self._token_bytes)["content"]
            case Text(_, text):
                return [*self._continue(Message), *self._add(text)]
            case CallBegun(_, _, name):
                callee = self._toolbox.callee(name)
                return self._open(CustomCall(callee) if callee.custom else FunctionCall(callee))
            case CallArguments(_, text):
                return self._add(text)
            case CallEnded():
                return self._close("completed")
            case Ended():
                return self._end(event)
        return []

    def _continue(self, kind: type[Message] | type[Reasoning]) -> list[Wire]:
        """Open an item, unless one of the kind is open."""
        if isinstance(self._part, kind):
            return []
        return self._open(Message() if kind is Message else Reasoning(self._summary, self._seal))

    def _open(self, part: Part) -> list[Wire]:
        closed = self._close("completed")
        self._part = part
        added = self._at({"type": "response.output_item.added", "item": {**part.item}})
        return [*closed, added, *map(self._at, part.begin())]

    def _add(self, text: str) -> list[Wire]:
        if isinstance(self._part, Message):
            self._part.score(self._scores)
            self._scores = []
        return [self._at(wire) for wire in self._part.add(text)] if self._part else []

    def _close(self, status: str) -> list[Wire]:
        if self._part is None:
            return []
        part = self._part
        done = {"type": "response.output_item.done", "item": part.item}
        if isinstance(part, Message):
            part.score(self._scores)  # of what came to nothing, such as a token that ended the text
            self._scores = []
        wires = [self._at(wire) for wire in (*part.end(status), done)]
        self.response["output"].append(part.item)
        self._part = None
        return wires

    def _end(self, ended: Ended) -> list[Wire]:
        cut = ended.reason == "length"
        wires: list[Wire] = []
        thought_only = self._part is None or isinstance(self._part, Reasoning)
        if thought_only and all(item["type"] == "reasoning" for item in self.response["output"]):
            wires = self._open(Message())  # an answer without a word is an empty message
        wires += self._close("incomplete" if cut else "completed")
        self.response["usage"] = _usage(ended.usage, ended.reasoning_tokens)
        if cut:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        return [*wires, self._finish("incomplete" if cut else "completed")]

    def _finish(self, status: Literal["completed", "incomplete", "failed", "cancelled"]) -> Wire:
        self.response["status"] = status
        if status == "completed":
            self.response["completed_at"] = int(time.time())
        return {"type": f"response.{status}", "response": {**self.response}}

    def _at(self, wire: Wire) -> Wire:
        return {**wire, "output_index": len(self.response["output"])}

    def _numbered(self, wire: Wire) -> Wire:
        self._sequence += 1
        return {**wire, "sequence_number": self._sequence - 1}


_BEGINNING = ("created", "in_progress")


def frame(wires: Iterable[Wire]) -> bytes:
    """Wire events as server-sent events."""
    return b"".join(b"event: %s\ndata: %s\n\n" % (wire["type"].encode(), msgspec.json.encode(wire)) for wire in wires)


def _usage(used: Usage, reasoning: int) -> Wire:
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def _message(error: ApiError) -> str:
    """Clients read from the words when to try again."""
    if _CODES.get(error.kind) != "rate_limit_exceeded":
        return error.message
    return f"{error.message} Please try again in {error.retry_after or _WAIT_S:g}s."
