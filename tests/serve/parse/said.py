"""What a reader made of a text, in a form that does not depend on how the text was split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from homegrown.serve.conversation import Tool
from homegrown.serve.events import CallArguments, CallBegun, CallEnded, Reasoning, Text
from homegrown.serve.parse import MARKS, TAGS, Reader

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "note": {"type": ["string", "null"]},
        "either": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/word"}]},
        "mode": {"enum": ["r", "w"]},
        "count": {"type": "integer"},
        "items": {"type": "array", "items": {"type": "string"}},
        "flag": {"type": "boolean"},
    },
    "$defs": {"word": {"type": "string"}},
}
TOOLS = (Tool(name="read", parameters=SCHEMA), Tool(name="list-files"), Tool(name="function.odd"))


def marked(text: str) -> str:
    """The text with its tags as marks, as they come from a tokenizer that has them."""
    for tag, mark in MARKS.items():
        text = text.replace(tag, mark)
    return text


def read(
    pieces: Iterable[str], thinking: bool = False, cut: bool = False, tools: Sequence[Tool] = TOOLS, **options: Any
) -> list[tuple[str, Any]]:
    """The events of pieces, checked for order, adjacent ones joined; calls as ("call", (name, arguments text))."""
    reader = Reader(tools, thinking, **{"spelled": TAGS, **options})
    events = [event for piece in pieces for event in reader.push(piece)]
    events += reader.finish(cut)
    said: list[tuple[str, Any]] = []
    call: CallBegun | None = None
    arguments = ""
    for event in events:
        if isinstance(event, Reasoning | Text):
            assert call is None
            assert event.text
            event.text.encode()  # no mark is left
            kind = "reasoning" if isinstance(event, Reasoning) else "text"
            before = said.pop()[1] if said and said[-1][0] == kind else ""
            said.append((kind, before + event.text))
        elif isinstance(event, CallBegun):
            assert call is None
            assert event.number == sum(kind == "call" for kind, _ in said)
            call, arguments = event, ""
        elif isinstance(event, CallArguments):
            assert call is not None
            assert event.text
            arguments += event.text
        else:
            assert isinstance(event, CallEnded)
            assert call is not None
            assert (event.number, event.name, event.arguments) == (call.number, call.name, arguments)
            arguments.encode()
            assert isinstance(json.loads(arguments), dict)
            said.append(("call", (event.name, arguments)))
            call = None
    assert call is None, "a call was not ended"
    return said


def calls(text: str, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    """The calls in a text that has nothing else in it."""
    said = read([text], **options)
    assert all(kind == "call" for kind, _ in said), said
    return [(name, json.loads(arguments)) for _, (name, arguments) in said]
