"""The requests of the Messages API: the fields that are read. All others are accepted and ignored."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Blocks = list[dict[str, Any]]
"""Content blocks, of which each known type is read with a kind below and the others are skipped."""


class Message(msgspec.Struct, kw_only=True):
    """A turn. Only those of `system` may be of passing interest (`clear_at`)."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks | None = None
    clear_at: str | None = None


class Thinking(msgspec.Struct, kw_only=True):
    """Whether to reason: `enabled`, `disabled`, `adaptive`, `between_tools`; `display` may be `omitted`."""

    type: str
    display: str | None = None


class ToolChoice(msgspec.Struct, kw_only=True):
    """Which tools must be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Tool(msgspec.Struct, kw_only=True):
    """A tool that the client runs."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class OutputFormat(msgspec.Struct, kw_only=True):
    """What the answer's text must look like."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct, kw_only=True):
    """How much effort, and which format."""

    effort: str | None = None
    format: OutputFormat | None = None


class CountTokens(msgspec.Struct, kw_only=True):
    """The body of `/v1/messages/count_tokens`, and what it shares with `/v1/messages`."""

    model: str
    messages: list[Message]
    system: str | Blocks | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """Where `output_config.format` was in an earlier version of the API."""


class CreateMessage(CountTokens, kw_only=True):
    """The body of `/v1/messages`."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    """Not in the API: the same seed, prompt and settings give the same answer."""


class TextBlock(msgspec.Struct, kw_only=True):
    """Text."""

    text: str


class DocumentBlock(msgspec.Struct, kw_only=True):
    """A document, of which only plain text can be read."""

    source: dict[str, Any]
    title: str | None = None
    context: str | None = None


class SearchResultBlock(msgspec.Struct, kw_only=True):
    """A passage that a search found."""

    content: Blocks
    source: str | None = None
    title: str | None = None


class CompactionBlock(msgspec.Struct, kw_only=True):
    """A summary of what came before; none where summarising failed."""

    content: str | None = None


class ThinkingBlock(msgspec.Struct, kw_only=True):
    """Reasoning of an earlier turn; where its text was left out, the signature may hold it."""

    thinking: str | None = None
    signature: str | None = None


class RedactedThinkingBlock(msgspec.Struct, kw_only=True):
    """Reasoning that is not shown."""

    data: str | None = None


class ToolUseBlock(msgspec.Struct, kw_only=True):
    """A call that the model made."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(msgspec.Struct, kw_only=True):
    """What a tool answered."""

    tool_use_id: str
    content: str | Blocks | None = None
    is_error: bool | None = None


class ToolReferenceBlock(msgspec.Struct, kw_only=True):
    """A deferred tool that a search has found and that may be used from here on."""

    tool_name: str


class ToolChangeBlock(msgspec.Struct, kw_only=True):
    """A tool that is offered, or withdrawn, from here on."""

    tool: dict[str, Any]
