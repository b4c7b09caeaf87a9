"""Events gathered into whole answers, for clients that do not stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from homegrown.serve.errors import ApiError
from homegrown.serve.events import (
    CallEnded,
    Compute,
    Ended,
    Event,
    Failed,
    Reasoning,
    Scored,
    Scores,
    Text,
)
from homegrown.serve.messages import Usage


@dataclass(frozen=True)
class Call:
    """A tool call; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


@dataclass
class Part:
    """A stretch of an answer: what is adjacent and of one kind is one part."""

    kind: Literal["reasoning", "text", "call"]
    pieces: list[str] = field(default_factory=list)
    call: Call | None = None

    @property
    def text(self) -> str:
        """The reasoning or text."""
        return "".join(self.pieces)


@dataclass
class Answer:
    """An answer, complete.

    Attributes:
        parts: what it is made of, in order.
        scores, prompt_scores: log probabilities, if they were asked for.
        compute: see `events.Compute`.
        reason, stop, usage, reasoning_tokens: see `events.Ended`.
    """

    parts: list[Part] = field(default_factory=list)
    scores: list[Scored] = field(default_factory=list)
    prompt_scores: list[Scored] = field(default_factory=list)
    compute: list[tuple[str, float]] = field(default_factory=list)
    reason: Literal["stop", "length", "calls"] = "stop"
    stop: str | None = None
    usage: Usage = field(default_factory=Usage)
    reasoning_tokens: int = 0

    @property
    def text(self) -> str:
        """All visible text."""
        return "".join(part.text for part in self.parts if part.kind == "text")

    @property
    def reasoning(self) -> str:
        """All thinking."""
        return "".join(part.text for part in self.parts if part.kind == "reasoning")

    @property
    def calls(self) -> list[Call]:
        """The tool calls, in order."""
        return [part.call for part in self.parts if part.call is not None]

    def take(self, event: Event) -> None:
        """Add what an event of this answer tells."""
        if isinstance(event, Reasoning | Text):
            self._extend("reasoning" if isinstance(event, Reasoning) else "text", event.text)
        elif isinstance(event, CallEnded):
            self.parts.append(Part("call", call=Call(event.name, event.arguments)))
        elif isinstance(event, Scores):
            (self.prompt_scores if event.prompt else self.scores).extend(event.tokens)
        elif isinstance(event, Compute):
            self.compute.extend(event.tokens)
        elif isinstance(event, Ended):
            self.reason, self.stop, self.usage = event.reason, event.stop, event.usage
            self.reasoning_tokens = event.reasoning_tokens

    def _extend(self, kind: Literal["reasoning", "text"], text: str) -> None:
        if not self.parts or self.parts[-1].kind != kind:
            self.parts.append(Part(kind))
        self.parts[-1].pieces.append(text)


async def collect(events: AsyncGenerator[Event, None]) -> list[Answer]:
    """All answers of a request, by number.

    Args:
        events: what `Service.events` gives; closed in the end, whatever happens.

    Raises:
        ApiError: the request failed.
    """
    answers: dict[int, Answer] = {}
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Failed):
                raise ApiError(event.kind, event.message)
            answers.setdefault(event.answer, Answer()).take(event)
    return [answers[number] for number in sorted(answers)]
