"""A request as the service understands it, whatever API it came through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from homegrown.serve.messages import Sampling


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    """Hold the model's arguments to the schema while they are being written."""


@dataclass(frozen=True, kw_only=True)
class ToolChoice:
    """Which tools the model may or must call."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] = ()
    """Only these, if any are named; with `required`, one of these."""
    parallel: bool = True
    """Several calls in one turn."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """What the answer's text must look like; thinking is free."""

    kind: Literal["text", "json", "schema", "regex", "lark"] = "text"
    schema: Mapping[str, Any] | None = None
    pattern: str = ""
    """A regular expression, or a Lark grammar in llguidance's dialect."""
    strict: bool = True
    """Refuse a schema with keywords that cannot be held to; otherwise they are left out."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What chat and plain completions share.

    Attributes:
        sampling: with `grammar` unset and `stop_ids` as the client gave them.
        stop: texts that end the answer and are not part of it.
        answers: how many (n). Answer i is seeded with `sampling.seed` + i.
        tenant, priority, salt: see `messages.Request`.
    """

    sampling: Sampling
    stop: tuple[str, ...] = ()
    answers: int = 1
    tenant: str = ""
    priority: int = 0
    salt: str = ""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A chat to be continued by the assistant.

    Attributes:
        messages: in the family's form: `role` (system, user, assistant, tool), `content` (text), and where they apply
            `reasoning_content`, `tool_calls` ([{"id", "type": "function", "function": {"name", "arguments": dict}}]),
            `name`, `tool_call_id`. System turns may stand anywhere.
        thinking: whether the model is to reason; `None`: the server's default.
        keep_reasoning: render the reasoning of earlier rounds; `None`: the server's default (true where there are
            tools: it keeps the prefix stable).
        template: further variables of the chat template.
    """

    messages: list[dict[str, Any]]
    options: Options
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    format: Format = Format()
    thinking: bool | None = None
    keep_reasoning: bool | None = None
    template: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A text to be continued as it is.

    Attributes:
        prompt: text (the beginning-of-sequence token is put before it) or token ids, taken as they are.
        echo: the result begins with the prompt.
    """

    prompt: str | list[int]
    options: Options
    format: Format = Format()
    echo: bool = False
