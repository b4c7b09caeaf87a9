"""The requests of the Responses API: the fields that are read. All others are accepted and ignored."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Items = list[dict[str, Any]]
"""Input or output items, or parts of their content; each known type is read with a kind below, others are skipped."""


class Reasoning(msgspec.Struct, kw_only=True):
    """How much to reason, and whether as a summary."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    """Where `summary` was in an earlier version of the API."""


class TextFormat(msgspec.Struct, kw_only=True):
    """What the answer's text must look like."""

    type: str
    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, kw_only=True):
    """About the answer's text."""

    format: TextFormat | None = None
    verbosity: str | None = None


class CountInput(msgspec.Struct, kw_only=True):
    """The body of `/v1/responses/input_tokens`, and what it shares with `/v1/responses`."""

    model: str
    input: str | Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    tools: Items | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None


class CreateResponse(CountInput, kw_only=True):
    """The body of `/v1/responses`."""

    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None


class MessageItem(msgspec.Struct, kw_only=True):
    """A message."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | Items


class CallItem(msgspec.Struct, kw_only=True):
    """A call of a function."""

    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class CustomCallItem(msgspec.Struct, kw_only=True):
    """A call of a custom tool, which takes free-form text."""

    call_id: str
    name: str
    input: str
    namespace: str | None = None


class OutputItem(msgspec.Struct, kw_only=True):
    """What a function or a custom tool answered."""

    call_id: str
    output: str | Items | None = None


class ReasoningItem(msgspec.Struct, kw_only=True):
    """Reasoning of an earlier turn, as text or as this server sealed it."""

    summary: Items | None = None
    content: Items | None = None
    encrypted_content: str | None = None


class FunctionTool(msgspec.Struct, kw_only=True):
    """A function that the client runs."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomFormat(msgspec.Struct, kw_only=True):
    """What the text for a custom tool looks like."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class CustomTool(msgspec.Struct, kw_only=True):
    """A tool that the client runs and that takes free-form text."""

    name: str
    description: str | None = None
    format: CustomFormat | None = None


class NamespaceTool(msgspec.Struct, kw_only=True):
    """Tools under a common name."""

    name: str
    tools: Items


class NamedTool(msgspec.Struct, kw_only=True):
    """A tool by its name, as `tool_choice` has it."""

    name: str
    namespace: str | None = None


class AllowedTools(msgspec.Struct, kw_only=True):
    """A choice among some of the tools."""

    mode: Literal["auto", "required"]
    tools: Items
