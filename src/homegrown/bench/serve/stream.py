"""A streamed answer, read as it comes: server-sent events of OpenAI's two completion APIs."""

from __future__ import annotations

from typing import Any

import msgspec

from homegrown.bench.serve.outcome import Outcome

_DONE = b"[DONE]"


class _Arguments(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Arguments | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _Cached(msgspec.Struct):
    cached_tokens: int | None = None


class _Predicted(msgspec.Struct):
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Predicted | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Reader:
    """Notes what a stream says in an `Outcome`.

    Args:
        outcome: is filled.
        began: `time.perf_counter()` at the run's beginning.
    """

    def __init__(self, outcome: Outcome, began: float) -> None:
        self._outcome, self._began = outcome, began
        self._line = b""
        self._data: list[bytes] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []

    def take(self, data: bytes, now: float) -> None:
        """Read some bytes that came at `now`. An event may be split anywhere."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                event, self._data = b"\n".join(self._data), []
                self._event(event, now - self._began)

    def finish(self) -> None:
        """The stream has ended: complete the outcome."""
        outcome = self._outcome
        outcome.text, outcome.reasoning = "".join(self._text), "".join(self._reasoning)
        if not outcome.usage:
            outcome.completion_tokens = sum(outcome.sizes) or len(outcome.arrivals)
        if outcome.ok and not outcome.finish:
            outcome.error, outcome.message = "cut off", "the stream ended without a finish reason"

    def _event(self, data: bytes, now: float) -> None:
        if data == _DONE:
            return
        outcome = self._outcome
        try:
            chunk = _decode(data)
        except msgspec.MsgspecError as error:
            outcome.error, outcome.message = "not understood", f"{error}: {data[:200]!r}"
            return
        if chunk.error is not None:
            outcome.error, outcome.message = "failed", explain(chunk.error)
        if chunk.usage is not None:
            _use(outcome, chunk.usage)
        for choice in chunk.choices:
            if self._choice(choice):
                outcome.arrivals.append(now)
                if choice.token_ids:
                    outcome.sizes.append(len(choice.token_ids))
            outcome.finish = choice.finish_reason or outcome.finish

    def _choice(self, choice: _Choice) -> bool:
        """Keep what a chunk has of the answer; whether it has anything."""
        delta = choice.delta or _Delta(content=choice.text)
        reasoning = delta.reasoning_content or delta.reasoning or ""
        text = delta.content or ""
        calls = [call.function for call in delta.tool_calls or [] if call.function]
        self._text.append(text)
        self._reasoning.append(reasoning)
        return bool(text or reasoning or any(call.name or call.arguments for call in calls))


def explain(error: Any) -> str:
    """The sentence in an error of whatever form."""
    if isinstance(error, dict):
        inner = error.get("error", error)
        return explain(inner) if inner is not error else str(error.get("message") or error.get("detail") or error)
    return str(error)


def _use(outcome: Outcome, usage: _Usage) -> None:
    outcome.usage = True
    outcome.prompt_tokens, outcome.completion_tokens = usage.prompt_tokens, usage.completion_tokens
    outcome.cached_tokens = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
    predicted = usage.completion_tokens_details
    if predicted is not None:
        outcome.accepted = predicted.accepted_prediction_tokens or 0
        outcome.rejected = predicted.rejected_prediction_tokens or 0
