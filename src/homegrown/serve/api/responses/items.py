"""Input items: in one form for all, and as the family's turns."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from homegrown.serve.api.body import convert
from homegrown.serve.api.responses import schema
from homegrown.serve.api.responses.tools import INPUT, flat
from homegrown.serve.api.seal import Seal
from homegrown.serve.errors import ApiError

Turn = dict[str, Any]

_LEFT_OUT = {"input_image": "image", "input_file": "file", "input_audio": "recording"}


def normal(given: str | schema.Items | None) -> schema.Items:
    """The request's input as items with a type and an id, as they are stored and listed."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_normal(item) for item in given or ()]


def added_tools(items: Sequence[dict[str, Any]]) -> schema.Items:
    """Definitions of tools that stand among the input."""
    tools = [item.get("tools") for item in items if item["type"] == "additional_tools"]
    return [tool for group in tools if isinstance(group, list) for tool in group if isinstance(tool, dict)]


class Turns:
    """Collects turns in order. What an assistant did before it is answered is one turn.

    Args:
        seal: opens reasoning that this server sealed.
    """

    def __init__(self, seal: Seal) -> None:
        self.turns: list[Turn] = []
        self._seal = seal
        self._names: dict[str, str] = {}
        self._assistant: Turn | None = None

    def add_all(self, items: Iterable[dict[str, Any]], where: str = "input") -> None:
        """Add items of `normal`, or of a response's output. Types that mean nothing to a model are skipped.

        Raises:
            ApiError: `invalid`: an item lacks what its type must have.
        """
        for index, item in enumerate(items):
            self._add(item, f"{where}[{index}]")
        self._assistant = None

    def add_system(self, text: str) -> None:
        """Add a system turn."""
        self._add_turn({"role": "system", "content": text})

    def _add(self, item: dict[str, Any], where: str) -> None:
        match item["type"]:
            case "message":
                self._add_message(convert(item, schema.MessageItem, where), where)
            case "reasoning":
                self._add_reasoning(convert(item, schema.ReasoningItem, where), where)
            case "function_call":
                call = convert(item, schema.CallItem, where)
                self._add_call(call.call_id, flat(call.name, call.namespace), _arguments(call.arguments, where))
            case "custom_tool_call":
                custom = convert(item, schema.CustomCallItem, where)
                self._add_call(custom.call_id, flat(custom.name, custom.namespace), {INPUT: custom.input})
            case "function_call_output" | "custom_tool_call_output":
                output = convert(item, schema.OutputItem, where)
                name = self._names.get(output.call_id, output.call_id)
                text = _text(output.output, f"{where}.output")
                self._add_turn({"role": "tool", "tool_call_id": output.call_id, "name": name, "content": text})

    def _add_message(self, message: schema.MessageItem, where: str) -> None:
        text = _text(message.content, f"{where}.content")
        if message.role == "assistant":
            turn = self._answering(unless="tool_calls")
            turn["content"] = f"{turn['content']}\n\n{text}" if turn["content"] else text
        else:
            self._add_turn({"role": "user" if message.role == "user" else "system", "content": text})

    def _add_reasoning(self, item: schema.ReasoningItem, where: str) -> None:
        text = self._seal.open(item.encrypted_content or "")
        text = text or _text(item.content, f"{where}.content") or _text(item.summary, f"{where}.summary")
        if text:
            turn = self._answering(unless="tool_calls")
            earlier = turn.get("reasoning_content")
            turn["reasoning_content"] = f"{earlier}\n\n{text}" if earlier else text

    def _add_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        self._names[call_id] = name
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._answering().setdefault("tool_calls", []).append(call)

    def _answering(self, unless: str = "") -> Turn:
        """The assistant's turn that goes on, or a new one."""
        if self._assistant is None or unless in self._assistant:
            turn: Turn = {"role": "assistant", "content": ""}
            self._add_turn(turn)
            self._assistant = turn
        return self._assistant

    def _add_turn(self, turn: Turn) -> None:
        self._assistant = None
        self.turns.append(turn)


def _normal(item: dict[str, Any]) -> dict[str, Any]:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    item = {**item, "type": kind}
    if kind == "message" and isinstance(item.get("content"), str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": part, "text": item["content"]}]
    if not isinstance(item.get("id"), str):
        item["id"] = f"{'msg' if kind == 'message' else 'item'}_{secrets.token_hex(12)}"
    return item


def _text(content: str | schema.Items | None, where: str) -> str:
    """The parts of a content as the model reads them. What it cannot read leaves a note: see the Messages API."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n\n".join(text for index, part in enumerate(content) if (text := _part(part, f"{where}[{index}]")))


def _part(part: dict[str, Any], where: str) -> str:
    kind = part.get("type")
    if not isinstance(kind, str):
        raise ApiError("invalid", f"`{where}.type` must be the type of a part.", param=f"{where}.type")
    if kind in _LEFT_OUT:
        return f"[A{'n' if kind == 'input_image' else ''} {_LEFT_OUT[kind]} was left out: this model reads text only.]"
    field = "refusal" if kind == "refusal" else "text"
    text = part.get(field, "" if kind not in _TEXTS else None)
    if not isinstance(text, str):
        raise ApiError("invalid", f"`{where}.{field}` must be text.", param=f"{where}.{field}")
    return text


_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal"})


def _arguments(text: str, where: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"`{where}.arguments` must be JSON text of an object: {error}."
        raise ApiError("invalid", message, param=f"{where}.arguments") from None
