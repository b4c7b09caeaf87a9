"""A chat's events as chunks: `chat.completion.chunk`."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence

from homegrown.serve.api.openai.chunks import Frame, encode
from homegrown.serve.api.openai.head import Head
from homegrown.serve.api.openai.logprobs import TokenBytes, chat_logprobs
from homegrown.serve.api.openai.usage import Tally
from homegrown.serve.errors import ApiError
from homegrown.serve.events import (
    Begun,
    CallArguments,
    CallBegun,
    Compute,
    Ended,
    Event,
    Failed,
    Reasoning,
    Scored,
    Scores,
    Text,
)

FINISH = {"stop": "stop", "length": "length", "calls": "tool_calls"}


def call_id() -> str:
    """A new name for a tool call."""
    return f"call_{secrets.token_hex(12)}"


class ChatEncoder:
    """Chunks of one request.

    Args:
        head: constant fields.
        reasoning: the fields that have the thinking; none: it is not shown.
        usage: end with the usage.
        token_bytes: show log probabilities; the bytes of a token.
        legacy: calls in their older form.
        compute: show how many experts tokens were given.
        answers: how many there will be.
    """

    def __init__(
        self,
        head: Head,
        *,
        reasoning: Sequence[str],
        usage: bool = False,
        token_bytes: TokenBytes | None = None,
        legacy: bool = False,
        compute: bool = False,
        answers: int = 1,
    ) -> None:
        self._frame = Frame(head, usage)
        self._reasoning = [f'"{name}":'.encode() for name in reasoning]
        self._token_bytes, self._legacy, self._compute = token_bytes, legacy, compute
        self._tally = Tally(answers)
        self._calls: dict[int, int] = {}  # the number of each answer's newest call
        self._scores: dict[int, list[Scored]] = defaultdict(list)  # come before their text

    def chunk(self, event: Event) -> bytes:
        """See `Encoder`."""
        match event:
            case Text(answer, text):
                return self._delta(answer, b'"content":' + encode(text), self._logprobs(answer))
            case CallArguments(answer, text):
                return self._delta(answer, self._arguments(answer, text))
            case Reasoning(answer, text) if self._reasoning:
                told = encode(text)
                return self._delta(answer, b",".join([name + told for name in self._reasoning]))
            case Scores(answer, tokens):
                if self._token_bytes:
                    self._scores[answer] += tokens
            case CallBegun(answer, number, name):
                self._calls[answer] = number
                return self._delta(answer, self._call(number, name))
            case Compute(answer, tokens) if self._compute:
                return self._frame.choice(answer, b'"delta":{},"compute":' + encode(tokens))
            case Begun(answer):
                return self._delta(answer, b'"role":"assistant","content":""')
            case Ended(answer, reason, _, usage, reasoning_tokens):
                self._tally.add(answer, usage, reasoning_tokens)
                finish = "function_call" if self._legacy and reason == "calls" else FINISH[reason]
                return self._frame.choice(answer, b'"delta":{}' + self._logprobs(answer), finish)
            case Failed(kind, message):
                raise ApiError(kind, message)
        return b""

    def end(self) -> bytes:
        """See `Encoder`."""
        return self._frame.end(self._tally)

    def _delta(self, answer: int, members: bytes, beside: bytes = b"") -> bytes:
        return self._frame.choice(answer, b'"delta":{' + members + b"}" + beside)

    def _call(self, number: int, name: str) -> bytes:
        function = {"name": name, "arguments": ""}
        if self._legacy:
            return b'"function_call":' + encode(function)
        call = {"index": number, "id": call_id(), "type": "function", "function": function}
        return b'"tool_calls":' + encode([call])

    def _arguments(self, answer: int, text: str) -> bytes:
        if self._legacy:
            return b'"function_call":{"arguments":%b}' % encode(text)
        return b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (self._calls[answer], encode(text))

    def _logprobs(self, answer: int) -> bytes:
        """Those that have come since the last text."""
        if self._token_bytes is None:
            return b""
        tokens = self._scores.pop(answer, [])
        return b',"logprobs":' + (encode(chat_logprobs(tokens, self._token_bytes)) if tokens else b"null")
