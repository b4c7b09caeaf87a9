"""One request's outputs to the events of its answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, Protocol

import msgspec

from homegrown.generate import StopTexts
from homegrown.serve import events
from homegrown.serve.conversation import Tool
from homegrown.serve.events import CallArguments, CallEnded, Ended, Event, Failed, Reasoning, Scored, Scores, Text
from homegrown.serve.messages import Output, Request, TokenScore, Usage
from homegrown.serve.parse import MARKS, Reader
from homegrown.serve.parse.reader import Where
from homegrown.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the answers of a request are to be read.

    Attributes:
        chat: they are an assistant's turns; otherwise they are text and nothing else.
        thinking: the prompt opened a thinking block.
        tools: those that may be called.
        parallel: several in one turn.
        stop: texts that end an answer.
        ends: tokens that end an answer and are no part of it.
        echo: text that comes first.
    """

    chat: bool
    thinking: bool = False
    tools: tuple[Tool, ...] = ()
    parallel: bool = True
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    echo: str = ""


class Follower:
    """Makes events of outputs.

    Args:
        answer: its number.
        request: what was asked of the engine.
        reading: how to read it.
        tokenizer: for tokens to text.

    Attributes:
        over: whether the answer has ended. The engine may not know it yet.
    """

    def __init__(self, answer: int, request: Request, reading: Reading, tokenizer: Tokenizer) -> None:
        self._answer, self._request, self._reading, self._tokenizer = answer, request, reading, tokenizer
        self._stream = tokenizer.stream(skip_special=True)
        self._stops = StopTexts(reading.stop)
        self._reader: _Reads = _Plain(answer)
        self._marks: dict[int, str] = {}
        if reading.chat:
            ids = {tag: tokenizer.token_id(tag) for tag in MARKS}
            self._marks = {token: MARKS[tag] for tag, token in ids.items() if token is not None}
            spelled = [tag for tag, token in ids.items() if token is None]
            self._reader = Reader(reading.tools, reading.thinking, answer, bool(reading.tools), spelled)
        self._begun = 0.0
        self._usage = Usage(prompt_tokens=len(request.prompt))
        self._tokens = self._reasoning_tokens = 0
        self._visible = _Visible(reading.chat)
        self.over = False

    def push(self, output: Output) -> list[Event]:
        """What an output tells."""
        made = [*self._begin(output), *self._read(output)]
        if not self.over and output.finish:
            made += self._finish(output)
        return list(_joined(made))

    def lost(self) -> list[Event]:
        """What to say when outputs end without a last one."""
        self.over = True
        return [Failed("internal", "The engine ended the answer without giving a reason.")]

    def _begin(self, output: Output) -> Iterator[Event]:
        self._usage = output.usage or self._usage
        if self._begun or not (output.tokens or output.prompt_scores or output.finish in ("stop", "length")):
            return
        self._begun = time.monotonic()
        yield events.Begun(self._answer, self._usage.prompt_tokens, self._usage.cached_tokens)
        if output.prompt_scores:
            pairs = zip(self._request.prompt, output.prompt_scores, strict=True)
            yield Scores(self._answer, tuple(self._scored(token, score) for token, score in pairs), prompt=True)
        if self._reading.echo:
            yield Text(self._answer, self._reading.echo)

    def _read(self, output: Output) -> Iterator[Event]:
        """The tokens of an output, up to where the answer ends. Scores come before the text they belong to."""
        made: list[Event] = []
        scored: list[Scored] = []
        computed: list[tuple[str, float]] = []
        for index, token in enumerate(output.tokens):
            before, end = self._reader.where, token in self._reading.ends
            text = "" if end else self._decode(token)
            found = self._reader.push(text)
            self._tokens += 1
            self._reasoning_tokens += before == "reasoning" and not end
            if self._visible.shows(text, before, self._reader.where, end):
                if output.scores:
                    scored.append(self._scored(token, output.scores[index]))
                if output.compute:
                    computed += self._visible.computed(text, output.compute[index])
            made += self._up_to_stop(found)
            if self.over:
                break
        if scored:
            yield Scores(self._answer, tuple(scored))
        if computed:
            yield events.Compute(self._answer, tuple(computed))
        yield from made
        if self.over:
            yield self._ended("stop")

    def _finish(self, output: Output) -> Iterator[Event]:
        if output.finish == "error":
            self.over = True
            yield Failed("internal", output.error or "The engine failed.")
        elif output.finish == "abort":
            self.over = True
            yield Failed("unavailable", "The server gave the request up; it may be sent again.")
        else:
            rest = [*self._reader.push(self._stream.flush()), *self._reader.finish(output.finish == "length")]
            yield from self._up_to_stop(rest)
            if not self.over and (text := self._stops.flush()):
                yield Text(self._answer, text)
            yield self._ended(output.finish if output.finish == "length" and not self.over else "stop")

    def _decode(self, token: int) -> str:
        if token in self._marks:
            return self._stream.flush() + self._marks[token]
        return self._stream.push(token)

    def _up_to_stop(self, found: Iterable[Event]) -> Iterator[Event]:
        """Events up to where a stop text, or the only call allowed, ends the answer."""
        for event in found:
            text = self._stops.push(event.text) if isinstance(event, Text) else self._stops.flush()
            if text:
                yield Text(self._answer, text)
            if not isinstance(event, Text):
                yield event
            if self._stops.hit or (isinstance(event, CallEnded) and not self._reading.parallel):
                self.over = True
                return

    def _ended(self, finish: Literal["stop", "length"]) -> Ended:
        self.over = True
        usage = msgspec.structs.replace(self._usage, completion_tokens=self._tokens)
        usage.decode_s = usage.decode_s or time.monotonic() - self._begun
        reason: Literal["stop", "length", "calls"] = "calls" if finish == "stop" and self._reader.calls else finish
        return Ended(self._answer, reason, self._stops.found, usage, self._reasoning_tokens)

    def _scored(self, token: int, score: TokenScore | None) -> Scored:
        return Scored(token, self._tokenizer.decode_bytes([token]), score)


class _Reads(Protocol):
    """A `Reader`, or what stands for it where there is nothing to read but text."""

    where: Where

    @property
    def calls(self) -> int: ...

    def push(self, text: str) -> Iterable[Event]: ...

    def finish(self, cut: bool = False) -> Iterable[Event]: ...


class _Plain:
    """Takes everything for text."""

    where: Where = "text"
    calls = 0

    def __init__(self, answer: int) -> None:
        self._answer = answer

    def push(self, text: str) -> list[Event]:
        return [Text(self._answer, text)] if text else []

    def finish(self, cut: bool = False) -> list[Event]:
        return []


class _Visible:
    """Tells which tokens make the visible text. In a completion all do, an end token included."""

    def __init__(self, chat: bool) -> None:
        self._chat = chat
        self._begun = False
        self._waiting: list[float] = []

    def shows(self, text: str, before: Where, after: Where, end: bool) -> bool:
        """Whether a token's text is part of it. Line ends before the first word of it are not."""
        if not self._chat:
            return True
        if end or before != "text" or after != "text" or any(mark in text for mark in MARKS.values()):
            self._begun = False
            return False
        self._begun = self._begun or not text or bool(text.strip("\n"))
        return self._begun

    def computed(self, text: str, experts: float) -> list[tuple[str, float]]:
        """A token's text with its experts; the mean of several where only together they are characters."""
        self._waiting.append(experts)
        if not text:
            return []
        mean = sum(self._waiting) / len(self._waiting)
        self._waiting = []
        return [(text, mean)]


def _joined(made: Iterable[Event]) -> Iterator[Event]:
    """Events with adjacent pieces of the same kind made one."""
    for _, group in groupby(made, type):
        first, *rest = group
        if isinstance(first, Reasoning | Text | CallArguments):
            pieces = [piece.text for piece in (first, *rest) if isinstance(piece, Reasoning | Text | CallArguments)]
            yield type(first)(first.answer, "".join(pieces))
        else:
            yield from (first, *rest)
