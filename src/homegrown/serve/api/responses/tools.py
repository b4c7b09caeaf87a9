"""Functions, custom tools and namespaces as the functions that a model calls, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from homegrown.serve.api.body import convert
from homegrown.serve.api.responses import schema
from homegrown.serve.conversation import Tool, ToolChoice
from homegrown.serve.errors import ApiError

INPUT = "input"
"""The one argument of the function that stands for a custom tool."""


@dataclass(frozen=True)
class Callee:
    """A tool as the client knows it."""

    name: str
    namespace: str | None = None
    custom: bool = False


class Toolbox:
    """The tools of a request. Types that a server would have to run itself, or does not know, are skipped.

    Args:
        definitions: the request's `tools`, and those that its input adds.

    Attributes:
        tools: as the model is told of them.

    Raises:
        ApiError: `invalid`: a definition lacks what its type must have, or a name comes twice.
    """

    def __init__(self, definitions: schema.Items) -> None:
        self._callees: dict[str, Callee] = {}
        tools: list[Tool] = []
        for where, callee, tool in _walk(definitions, "tools", None):
            if tool.name in self._callees:
                raise ApiError("invalid", f"`{where}`: there is already a tool named {tool.name!r}.", param=where)
            self._callees[tool.name] = callee
            tools.append(tool)
        self.tools = tuple(tools)

    def callee(self, name: str) -> Callee:
        """The client's tool that the model calls by this name."""
        return self._callees.get(name) or Callee(name)

    def choice(self, given: str | dict[str, Any] | None, parallel: bool | None) -> ToolChoice:
        """Which tools may or must be called. What asks for a tool that was skipped leaves the choice to the model.

        Raises:
            ApiError: `invalid`: an unknown word, or a function that is not there.
        """
        several = parallel is not False
        if isinstance(given, str) or given is None:
            modes = {"auto": "auto", "none": "none", "required": "required"}
            mode = modes.get(given or "auto")
            if mode is None:
                message = f"`tool_choice` is {given!r}: it must be 'none', 'auto', 'required' or an object."
                raise ApiError("invalid", message, param="tool_choice")
            if mode == "required" and not self.tools:
                message = "`tool_choice` is 'required', but `tools` has no function or custom tool."
                raise ApiError("invalid", message, param="tool_choice")
            return ToolChoice(mode=mode, parallel=several)  # type: ignore[arg-type]
        match given.get("type"):
            case "function" | "custom":
                return ToolChoice(mode="required", names=(self._named(given, "tool_choice"),), parallel=several)
            case "allowed_tools":
                allowed = convert(given, schema.AllowedTools, "tool_choice")
                names = tuple(
                    self._named(tool, f"tool_choice.tools[{index}]")
                    for index, tool in enumerate(allowed.tools)
                    if tool.get("type") in ("function", "custom")
                )
                return ToolChoice(mode=allowed.mode if names else "none", names=names, parallel=several)
        return ToolChoice(parallel=several)

    def _named(self, given: dict[str, Any], where: str) -> str:
        tool = convert(given, schema.NamedTool, where)
        name = flat(tool.name, tool.namespace)
        if name not in self._callees:
            raise ApiError("invalid", f"`{where}.name` is {name!r}, which `tools` does not have.", param=where)
        return name


def flat(name: str, namespace: str | None) -> str:
    """A tool's name and namespace as the one name that the model sees."""
    if not namespace:
        return name
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def free_text(arguments: str) -> str:
    """What a custom tool is given, of the arguments of the function that stands for it; where these were cut off or are
    something else, they as they are."""
    try:
        decoded = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    text = decoded.get(INPUT) if isinstance(decoded, dict) else None
    return text if isinstance(text, str) else arguments


def _walk(definitions: schema.Items, where: str, namespace: str | None) -> Iterator[tuple[str, Callee, Tool]]:
    for index, definition in enumerate(definitions):
        here = f"{where}[{index}]"
        match definition.get("type"):
            case "function":
                function = convert(definition, schema.FunctionTool, here)
                yield here, Callee(function.name, namespace), _function(function, namespace)
            case "custom":
                custom = convert(definition, schema.CustomTool, here)
                yield here, Callee(custom.name, namespace, custom=True), _custom(custom, namespace)
            case "namespace" if namespace is None:
                group = convert(definition, schema.NamespaceTool, here)
                yield from _walk(group.tools, f"{here}.tools", group.name)


def _function(function: schema.FunctionTool, namespace: str | None) -> Tool:
    return Tool(
        name=flat(function.name, namespace),
        description=function.description or "",
        parameters=function.parameters or {},
        strict=bool(function.strict),
    )


def _custom(custom: schema.CustomTool, namespace: str | None) -> Tool:
    about = custom.description or ""
    if custom.format and custom.format.definition:
        about += f"\n\nThe input must follow this {custom.format.syntax or ''} grammar:\n{custom.format.definition}"
    return Tool(
        name=flat(custom.name, namespace),
        description=about.strip(),
        parameters={
            "type": "object",
            "properties": {INPUT: {"type": "string", "description": "Free-form text."}},
            "required": [INPUT],
        },
    )
