"""The messages of the Messages API as the family's turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homegrown.serve.api.anthropic import schema
from homegrown.serve.api.anthropic.text import block_text, joined, kind_of, system_text, texts
from homegrown.serve.api.body import convert
from homegrown.serve.api.seal import Seal

Turn = dict[str, Any]


class Turns:
    """Collects turns in order.

    Args:
        seal: opens reasoning that this server sealed.
    """

    def __init__(self, seal: Seal) -> None:
        self.turns: list[Turn] = []
        self._seal = seal
        self._names: dict[str, str] = {}

    def add_all(self, messages: Sequence[schema.Message]) -> None:
        """Add a conversation.

        Raises:
            ApiError: `invalid`: a block lacks what its type must have.
        """
        last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
        for index, message in enumerate(messages):
            where = f"messages[{index}].content"
            if message.role == "assistant":
                self._add_assistant(message.content, where)
            elif message.role == "user":
                self._add_user(message.content, where)
            elif message.clear_at != "next_user_message" or index > last_user:
                self.add_system(message.content, where)

    def add_system(self, content: str | schema.Blocks | None, where: str) -> None:
        """Add a system turn, unless nothing is left of it. It may stand anywhere."""
        text = system_text(content, where)
        if text:
            self.turns.append({"role": "system", "content": text})

    def _add_user(self, content: str | schema.Blocks | None, where: str) -> None:
        if not isinstance(content, list):
            self.turns.append({"role": "user", "content": content or ""})
            return
        before, pending = len(self.turns), list[str]()
        for index, block in enumerate(content):
            here = f"{where}[{index}]"
            if kind_of(block, here) == "tool_result":
                self._flush_user(pending)
                self._add_result(convert(block, schema.ToolResultBlock, here), here)
            else:
                pending.append(block_text(block, here) or "")
        self._flush_user(pending)
        if len(self.turns) == before:
            self.turns.append({"role": "user", "content": ""})

    def _flush_user(self, pending: list[str]) -> None:
        text = joined(pending)
        if text:
            self.turns.append({"role": "user", "content": text})
        pending.clear()

    def _add_result(self, result: schema.ToolResultBlock, where: str) -> None:
        text = joined(texts(result.content, f"{where}.content"))
        self.turns.append(
            {
                "role": "tool",
                "tool_call_id": result.tool_use_id,
                "name": self._names.get(result.tool_use_id, result.tool_use_id),
                "content": f"Error: {text}" if result.is_error else text,
            }
        )

    def _add_assistant(self, content: str | schema.Blocks | None, where: str) -> None:
        text, reasoning = "", []
        calls: list[Turn] = []
        if not isinstance(content, list):
            text, content = content or "", []
        for index, block in enumerate(content):
            here = f"{where}[{index}]"
            match kind_of(block, here):
                case "thinking":
                    reasoning.append(self._thought(convert(block, schema.ThinkingBlock, here)))
                case "redacted_thinking":
                    hidden = convert(block, schema.RedactedThinkingBlock, here)
                    reasoning.append(self._seal.open(hidden.data or "") or "")
                case "tool_use":
                    calls.append(self._call(convert(block, schema.ToolUseBlock, here)))
                case _:
                    text += block_text(block, here) or ""  # one text that citations may have split
        turn: Turn = {"role": "assistant", "content": text}
        if any(reasoning):
            turn["reasoning_content"] = joined(reasoning)
        if calls:
            turn["tool_calls"] = calls
        self.turns.append(turn)

    def _thought(self, block: schema.ThinkingBlock) -> str:
        """Reasoning is taken back whatever its signature says: a session may have begun with another model."""
        return block.thinking or self._seal.open(block.signature or "") or ""

    def _call(self, block: schema.ToolUseBlock) -> Turn:
        self._names[block.id] = block.name
        return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
