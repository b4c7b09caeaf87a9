"""Output items while they are being made, each with the events that tell of it."""

from __future__ import annotations

import secrets
from typing import Any, Protocol

from homegrown.serve.api.responses.tools import Callee, free_text
from homegrown.serve.api.seal import Seal

Wire = dict[str, Any]
"""An item, or an event without its sequence number."""


class Part(Protocol):
    """An item that grows. Its events carry neither `output_index` nor `sequence_number`."""

    item: Wire
    """As it is so far; after `end` the whole item."""

    def begin(self) -> list[Wire]:
        """The events behind `output_item.added`."""

    def add(self, text: str) -> list[Wire]:
        """The events of more text."""

    def end(self, status: str) -> list[Wire]:
        """The events before `output_item.done`; the item is complete then, or as complete as it gets."""


class Message:
    """Visible text."""

    def __init__(self) -> None:
        self.item: Wire = {"id": _id("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
        self.item["content"] = []
        self._at = {"item_id": self.item["id"], "content_index": 0}
        self._pieces: list[str] = []
        self._logprobs: list[Wire] = []
        self._new: list[Wire] = []

    def begin(self) -> list[Wire]:
        """A content part."""
        return [{"type": "response.content_part.added", **self._at, "part": _output_text("", [])}]

    def score(self, logprobs: list[Wire]) -> None:
        """Take log probabilities of tokens; they go out with the next text."""
        self._new += logprobs
        self._logprobs += logprobs

    def add(self, text: str) -> list[Wire]:
        """A delta."""
        self._pieces.append(text)
        logprobs, self._new = self._new, []
        return [{"type": "response.output_text.delta", **self._at, "delta": text, "logprobs": logprobs}]

    def end(self, status: str) -> list[Wire]:
        """The text, and the part with it."""
        text = "".join(self._pieces)
        part = _output_text(text, self._logprobs)
        self.item |= {"status": status, "content": [part]}
        return [
            {"type": "response.output_text.done", **self._at, "text": text, "logprobs": self._logprobs},
            {"type": "response.content_part.done", **self._at, "part": part},
        ]


class Reasoning:
    """Thinking.

    Args:
        summary: tell it as its own summary, to clients that asked for one, rather than as it is.
        seal: put a sealed form into the item, for clients that hand it back.
    """

    def __init__(self, summary: bool, seal: Seal | None) -> None:
        self.item: Wire = {"id": _id("rs"), "type": "reasoning", "status": "in_progress", "summary": []}
        self._summary, self._seal = summary, seal
        index = "summary_index" if summary else "content_index"
        self._at = {"item_id": self.item["id"], index: 0}
        self._name = "reasoning_summary" if summary else "reasoning"
        self._part_name = "reasoning_summary_part" if summary else "content_part"
        self._pieces: list[str] = []

    def begin(self) -> list[Wire]:
        """A part of the summary or of the content."""
        return [{"type": f"response.{self._part_name}.added", **self._at, "part": self._part("")}]

    def add(self, text: str) -> list[Wire]:
        """A delta."""
        self._pieces.append(text)
        return [{"type": f"response.{self._name}_text.delta", **self._at, "delta": text}]

    def end(self, status: str) -> list[Wire]:
        """The text, and the part with it."""
        text = "".join(self._pieces)
        part = self._part(text)
        self.item |= {"status": status, "summary" if self._summary else "content": [part]}
        if self._seal:
            self.item["encrypted_content"] = self._seal.seal(text)
        return [
            {"type": f"response.{self._name}_text.done", **self._at, "text": text},
            {"type": f"response.{self._part_name}.done", **self._at, "part": part},
        ]

    def _part(self, text: str) -> Wire:
        return {"type": "summary_text" if self._summary else "reasoning_text", "text": text}


class FunctionCall:
    """A call of a function."""

    def __init__(self, callee: Callee) -> None:
        self.item: Wire = {"id": _id("fc"), "type": "function_call", "status": "in_progress", "call_id": _id("call")}
        self.item |= {"name": callee.name, "arguments": "", **_namespace(callee)}
        self._pieces: list[str] = []

    def begin(self) -> list[Wire]:
        """Nothing."""
        return []

    def add(self, text: str) -> list[Wire]:
        """A delta of the arguments' JSON text."""
        self._pieces.append(text)
        return [{"type": "response.function_call_arguments.delta", "item_id": self.item["id"], "delta": text}]

    def end(self, status: str) -> list[Wire]:
        """The arguments."""
        arguments = "".join(self._pieces) or "{}"
        self.item |= {"status": status, "arguments": arguments}
        done = {"type": "response.function_call_arguments.done", "item_id": self.item["id"]}
        return [{**done, "name": self.item["name"], "arguments": arguments}]


class CustomCall:
    """A call of a custom tool: its text is in the arguments of the function that stands for it, and is told at once
    when they are complete."""

    def __init__(self, callee: Callee) -> None:
        self.item: Wire = {"id": _id("ctc"), "type": "custom_tool_call", "status": "in_progress"}
        self.item |= {"call_id": _id("call"), "name": callee.name, "input": "", **_namespace(callee)}
        self._pieces: list[str] = []

    def begin(self) -> list[Wire]:
        """Nothing."""
        return []

    def add(self, text: str) -> list[Wire]:
        """Nothing yet."""
        self._pieces.append(text)
        return []

    def end(self, status: str) -> list[Wire]:
        """The text."""
        text = free_text("".join(self._pieces))
        self.item |= {"status": status, "input": text}
        kind, at = "response.custom_tool_call_input", {"item_id": self.item["id"]}
        return [{"type": f"{kind}.delta", **at, "delta": text}, {"type": f"{kind}.done", **at, "input": text}]


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def _output_text(text: str, logprobs: list[Wire]) -> Wire:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _namespace(callee: Callee) -> Wire:
    return {"namespace": callee.namespace} if callee.namespace else {}
