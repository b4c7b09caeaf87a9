"""Which tools the model is offered, and which it must use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from homegrown.serve.api.anthropic import schema
from homegrown.serve.api.anthropic.text import changed_tool
from homegrown.serve.api.body import convert
from homegrown.serve.conversation import Tool, ToolChoice
from homegrown.serve.errors import ApiError


def offered(body: schema.CountTokens) -> tuple[Tool, ...]:
    """The tools that the client runs: those a server would have to run itself are skipped, and those that are deferred
    come once the conversation refers to them."""
    defined = [(f"tools[{index}]", tool) for index, tool in enumerate(body.tools or ())]
    changes = list(_changes(body.messages))
    referred = {str(change.get("name") or change.get("tool_name")) for _, change in changes}
    defined += [(where, change) for where, change in changes if "input_schema" in change]
    tools: dict[str, Tool] = {}
    for where, definition in defined:
        if definition.get("type") not in (None, "custom"):
            continue
        tool = convert(definition, schema.Tool, where)
        if tool.defer_loading and tool.name not in referred:
            continue
        if tool.name in tools:
            raise ApiError("invalid", f"`{where}`: there is already a tool named {tool.name!r}.", param=where)
        tools[tool.name] = Tool(
            name=tool.name,
            description=tool.description or "",
            parameters=tool.input_schema or {},
            strict=bool(tool.strict),
        )
    return tuple(tools.values())


def choice(given: schema.ToolChoice | None, tools: tuple[Tool, ...]) -> ToolChoice:
    """Which of `tools` may or must be called.

    Raises:
        ApiError: `invalid`: what must be called is not there.
    """
    if given is None:
        return ToolChoice()
    parallel = not given.disable_parallel_tool_use
    if given.type in ("auto", "none"):
        return ToolChoice(mode="none" if given.type == "none" else "auto", parallel=parallel)
    if not tools:
        raise ApiError(
            "invalid",
            f"`tool_choice` is {given.type!r}, but there is no tool in `tools` that this server's clients can run.",
            param="tool_choice",
        )
    if given.type == "any":
        return ToolChoice(mode="required", parallel=parallel)
    if given.name not in {tool.name for tool in tools}:
        raise ApiError(
            "invalid", f"`tool_choice.name` is {given.name!r}, which `tools` does not have.", param="tool_choice.name"
        )
    return ToolChoice(mode="required", names=(given.name or "",), parallel=parallel)


def _changes(messages: Sequence[schema.Message]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is said about tools in the course of the conversation, with where it is said."""
    for index, message in enumerate(messages):
        yield from _changes_in(message.content, f"messages[{index}].content")


def _changes_in(content: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(block, dict):
            continue
        here = f"{where}[{index}]"
        match block.get("type"):
            case "tool_addition":
                yield here, changed_tool(block, here)
            case "tool_reference":
                yield here, block
            case "tool_result" | "tool_search_tool_result":
                yield from _changes_in(block.get("content"), f"{here}.content")
