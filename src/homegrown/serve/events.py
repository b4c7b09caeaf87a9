"""The one stream of events that every API encodes: what an answer is made of, as it is being made.

Per answer the order is: `Begun`; any number of `Reasoning`, `Text`, `CallBegun` ... `CallEnded` (arguments between
them; calls do not interleave with anything else), `Scores` and `Compute`; `Ended`, or `Failed` anywhere. Answers of one
request may interleave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from homegrown.serve.errors import Kind
from homegrown.serve.messages import TokenScore, Usage


@dataclass(frozen=True)
class Begun:
    """The prompt has been computed and the first token is there."""

    answer: int
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Reasoning:
    """A piece of thinking."""

    answer: int
    text: str


@dataclass(frozen=True)
class Text:
    """A piece of the visible answer."""

    answer: int
    text: str


@dataclass(frozen=True)
class CallBegun:
    """A tool call whose name is known. `number` counts an answer's calls from 0."""

    answer: int
    number: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the JSON text of the newest call's arguments; the pieces of a call joined are a JSON object."""

    answer: int
    text: str


@dataclass(frozen=True)
class CallEnded:
    """The newest call is complete; `arguments` is its whole JSON text."""

    answer: int
    number: int
    name: str
    arguments: str


@dataclass(frozen=True)
class Scored:
    """A token with its log probabilities, for APIs that show them."""

    token: int
    bytes: bytes
    score: TokenScore | None


@dataclass(frozen=True)
class Scores:
    """Log probabilities of tokens, in order. They may come a little before the text they belong to."""

    answer: int
    tokens: tuple[Scored, ...]
    prompt: bool = False
    """These are the prompt's (echo), all at once; the first has no score."""


@dataclass(frozen=True)
class Compute:
    """Visible text with the real experts a token that its tokens were given: [(text, experts), ...]."""

    answer: int
    tokens: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Ended:
    """The answer is complete.

    Attributes:
        reason: `stop` (end of turn, stop text or stop token), `length`, or `calls` (it ends with tool calls).
        stop: the stop text that was hit, if one was.
        usage: tokens and times.
        reasoning_tokens: of the completion's tokens, those of thinking.
    """

    answer: int
    reason: Literal["stop", "length", "calls"]
    stop: str | None
    usage: Usage
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    """The request cannot be carried on; nothing follows."""

    kind: Kind
    message: str


Event = Begun | Reasoning | Text | CallBegun | CallArguments | CallEnded | Scores | Compute | Ended | Failed
