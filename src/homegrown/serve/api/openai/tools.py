"""Declarations of tools, and which of them may be called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from homegrown.serve.api import body
from homegrown.serve.conversation import Tool, ToolChoice
from homegrown.serve.errors import ApiError


class Function(msgspec.Struct, kw_only=True):
    """A declared function."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def tool(self) -> Tool:
        """The same for the service."""
        return Tool(
            name=self.name,
            description=self.description or "",
            parameters=self.parameters or {},
            strict=bool(self.strict),
        )


class Declaration(msgspec.Struct, kw_only=True):
    """An item of `tools`."""

    type: str = "function"
    function: Function | None = None


class Named(msgspec.Struct, kw_only=True):
    """A function by its name."""

    name: str


class Allowed(msgspec.Struct, kw_only=True):
    """An item of `allowed_tools`: a reference to a declared tool."""

    function: Named | None = None
    name: str | None = None


class AllowedTools(msgspec.Struct, kw_only=True):
    """The field of the same name in `tool_choice`."""

    tools: list[Allowed]
    mode: Literal["auto", "required"] = "auto"


class Choice(msgspec.Struct, kw_only=True):
    """`tool_choice` where it is an object."""

    type: str = "function"
    function: Named | None = None
    allowed_tools: AllowedTools | None = None


def read_tools(declarations: Sequence[Declaration] | None) -> tuple[Tool, ...]:
    """The functions among the declared tools.

    Tools that a provider would run itself (web search and the like) are left out: the model is not told of them, so it
    does not call them. Free-form tools are refused, since a call without JSON would reach a client as nothing it knows.

    Raises:
        ApiError: `invalid`: a declaration is incomplete, or of type custom.
    """
    tools = []
    for index, declaration in enumerate(declarations or ()):
        where = f"tools[{index}]"
        if declaration.type == "custom":
            message = f"Field `{where}.type`: only functions can be called; declare one with a string parameter."
            raise ApiError("invalid", message, param=f"{where}.type")
        if declaration.type == "function":
            if declaration.function is None:
                message = f"Field `{where}.function`: a tool of type function needs it."
                raise ApiError("invalid", message, param=f"{where}.function")
            tools.append(declaration.function.tool)
    return tuple(tools)


def read_choice(given: str | Choice | None, parallel: bool | None) -> ToolChoice:
    """`tool_choice` and `parallel_tool_calls`.

    Raises:
        ApiError: `invalid`: the choice is none of the known ones.
    """
    many = parallel is not False
    word = given if isinstance(given, str) else None if given is None else given.type
    if word is None or word == "auto":
        return ToolChoice(parallel=many)
    if word == "none":
        return ToolChoice(mode="none")
    if word in ("required", "any"):
        return ToolChoice(mode="required", parallel=many)
    if isinstance(given, Choice) and given.type == "function" and given.function:
        return ToolChoice(mode="required", names=(given.function.name,), parallel=many)
    if isinstance(given, Choice) and given.type == "allowed_tools" and given.allowed_tools:
        return _allowed(given.allowed_tools, many)
    message = 'Field `tool_choice`: must be "none", "auto", "required", a function by name or allowed_tools.'
    raise ApiError("invalid", message, param="tool_choice")


def _allowed(given: AllowedTools, many: bool) -> ToolChoice:
    names = [one.function.name if one.function else one.name for one in given.tools]
    known = tuple(name for name in names if name)
    if not known:
        where = "tool_choice.allowed_tools.tools"
        raise ApiError("invalid", f"Field `{where}`: names no function; name those that may be called.", param=where)
    return ToolChoice(mode=given.mode, names=known, parallel=many)


def read_function_call(given: str | dict[str, Any] | None) -> ToolChoice:
    """`function_call`, the older form of `tool_choice`: one call at most.

    Raises:
        ApiError: `invalid`: it is none of the known ones.
    """
    if isinstance(given, dict):
        name = body.convert(given, Named, "function_call").name
        return ToolChoice(mode="required", names=(name,), parallel=False)
    if given in (None, "auto", "none"):
        return ToolChoice(mode="none" if given == "none" else "auto", parallel=False)
    message = 'Field `function_call`: must be "none", "auto" or {"name": ...}.'
    raise ApiError("invalid", message, param="function_call")
