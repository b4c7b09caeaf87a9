"""The real server with a model that plays a part: what it says is made from the conversation it is shown.

A model small enough for a test cannot drive an agent. Everything else is real: the port, the layers, the template, the
tokens, the state machine that reads them, the encoders. Only who chooses the tokens is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from homegrown.serve.backend import Backend
from homegrown.serve.card import ModelCard
from homegrown.serve.http.app import build_app
from homegrown.serve.http.metered import MeteredBackend
from homegrown.serve.http.options import Options
from homegrown.serve.messages import Request
from homegrown.serve.segments import Disguise, Segments
from homegrown.serve.service import Service

from ..http.live import Live, serving
from ..scripted import ScriptedBackend
from ..tiny import tiny_config, tiny_tokenizer

QUOTED = Disguise(list(tiny_tokenizer().added_tokens))
"""Tags that are quoted in an argument, as a model writes them: letter by letter, and not with their tokens."""
LONG = 2**20
"""Tokens of context. Agents begin with some ten thousand, and these are bytes."""


@dataclass(frozen=True)
class Scene:
    """What the model is shown.

    Attributes:
        text: the whole prompt.
        tools: declared names.
        results: of the tool calls since the user last spoke, oldest first.
        thinking: it ends inside a thinking block.
    """

    text: str
    tools: tuple[str, ...]
    results: tuple[str, ...]
    thinking: bool

    @classmethod
    def of(cls, prompt: Sequence[int]) -> Scene:
        text = tiny_tokenizer().decode(list(prompt))
        declared, _, talk = text.rpartition("</longcat_tool_declare>")
        last = talk.rpartition("<longcat_user>")[2]
        results = re.findall(r"<longcat_tool_response>[^\n]*\n(.*?)</longcat_tool_response>", last, re.DOTALL)
        names = re.findall(r"^### Tool name: (.*)$", declared, re.MULTILINE)
        return cls(text, tuple(names), tuple(results), text.endswith("<longcat_think>\n"))


Part = Callable[[Scene], str]
"""What to say next."""


def call(name: str, **arguments: Any) -> str:
    """A tool call in the family's markup."""
    pairs = "".join(
        f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>"
        f"{QUOTED.hide(value if isinstance(value, str) else json.dumps(value))}</longcat_arg_value>\n"
        for key, value in arguments.items()
    )
    return f"<longcat_tool_call>{name}\n{pairs}</longcat_tool_call>\n"


def in_turn(*lines: str | Part) -> Part:
    """One line after each tool result; the last one stays."""

    def part(scene: Scene) -> str:
        line = lines[min(len(scene.results), len(lines) - 1)]
        return line if isinstance(line, str) else line(scene)

    return part


def playing(part: Part, at_a_time: int = 7) -> ScriptedBackend:
    """A backend that says what the part says, behind a thought where thinking is wanted."""
    segments, end = Segments(tiny_tokenizer()), tiny_tokenizer().eos_id

    def script(request: Request) -> list[int]:
        scene = Scene.of(request.prompt)
        thought = "Let me see.\n</longcat_think>\n" if scene.thinking else ""
        return [*segments.encode(thought + part(scene), QUOTED), end]

    return ScriptedBackend(script, at_a_time)


@contextmanager
def stage(backend: Backend, **options: Any) -> Iterator[Live]:
    """A server on a loopback port; its model has the names that the documentation uses."""
    card = ModelCard(id="quickstart", context_length=LONG, max_output=LONG, aliases=("longcat-2.0",), thinking=False)
    config = tiny_config(max_position_embeddings=LONG)
    service = Service(MeteredBackend(backend), tiny_tokenizer(), config, card)
    with serving(
        build_app(service, Options(**{"model": "quickstart", "max_ttft": 0.0, "log": "off", **options}))
    ) as live:
        yield live
