"""Messages of a chat, from OpenAI's form to the family's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from homegrown.serve.errors import ApiError

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
          "function": "tool"}  # fmt: skip
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class Part(msgspec.Struct, kw_only=True):
    """An item of a content list."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class Function(msgspec.Struct, kw_only=True):
    """What was called, and with what: JSON text of an object, or the object."""

    name: str
    arguments: str | dict[str, Any] | None = None


class Call(msgspec.Struct, kw_only=True):
    """An item of `tool_calls`."""

    function: Function
    id: str | None = None


class Detail(msgspec.Struct, kw_only=True):
    """An item of `reasoning_details`, where some clients keep the reasoning."""

    text: str | None = None
    summary: str | None = None


class Message(msgspec.Struct, kw_only=True):
    """An item of `messages`."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Detail] | None = None


def read_messages(given: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages in the family's form, as `Conversation.messages` describes it.

    System turns stay where they are. The results of tools get the name of the tool, which the family's template shows
    and OpenAI's form does not repeat.

    Raises:
        ApiError: `invalid`: there is no message, or one is of an unknown role, has content other than text or calls
            whose arguments are not JSON objects.
    """
    if not given:
        raise ApiError("invalid", "Field `messages`: is empty; it needs at least one message.", param="messages")
    named: dict[str, str] = {}
    return [_message(message, f"messages[{index}]", named) for index, message in enumerate(given)]


def _message(message: Message, where: str, named: dict[str, str]) -> dict[str, Any]:
    """`named` has the tools' names by the ids of their calls so far."""
    role = _ROLES.get(message.role)
    if role is None:
        known = ", ".join(_ROLES)
        reason = f"Field `{where}.role`: must be one of {known}, not {message.role[:40]!r}."
        raise ApiError("invalid", reason, param=f"{where}.role")
    if message.content is None and role in ("system", "user"):
        raise ApiError("invalid", f"Field `{where}.content`: is missing.", param=f"{where}.content")
    result: dict[str, Any] = {"role": role, "content": _text(message.content, f"{where}.content")}
    if role == "tool":
        identity = message.tool_call_id or ""
        result["name"] = message.name or named.get(identity) or identity
        result["tool_call_id"] = identity
    elif message.name:
        result["name"] = message.name
    if role == "assistant":
        _add_assistant(result, message, where)
        named.update({call["id"]: call["function"]["name"] for call in result.get("tool_calls", ()) if call["id"]})
    return result


def _add_assistant(result: dict[str, Any], message: Message, where: str) -> None:
    """What only the assistant's messages have."""
    reasoning = message.reasoning_content or message.reasoning
    reasoning = reasoning or "".join(detail.text or detail.summary or "" for detail in message.reasoning_details or ())
    if reasoning:
        result["reasoning_content"] = reasoning
    calls = [
        _call(call.id, call.function, f"{where}.tool_calls[{index}].function")
        for index, call in enumerate(message.tool_calls or ())
    ]
    if message.function_call:
        calls.append(_call(None, message.function_call, f"{where}.function_call"))
    if calls:
        result["tool_calls"] = calls


def _call(identity: str | None, function: Function, where: str) -> dict[str, Any]:
    arguments = function.arguments
    if not isinstance(arguments, dict):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        field = f"{where}.arguments"
        raise ApiError("invalid", f"Field `{field}`: must be the JSON text of an object.", param=field)
    return {
        "id": identity or "",
        "type": "function",
        "function": {"name": function.name, "arguments": arguments},
    }


def _text(content: str | list[Part] | None, where: str) -> str:
    if not isinstance(content, list):
        return content or ""
    texts = []
    for index, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in _TEXT_PARTS or text is None:
            message = f"Field `{where}[{index}]`: must be a part of type text; the model reads nothing else."
            raise ApiError("invalid", message, param=f"{where}[{index}]")
        texts.append(text)
    return "\n".join(texts)
