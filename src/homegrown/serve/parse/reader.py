"""The one state machine over what a model writes: thinking, text and tool calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from homegrown.serve.conversation import Tool
from homegrown.serve.events import CallArguments, CallBegun, CallEnded, Reasoning, Text
from homegrown.serve.parse.calls import CallReader, Sink
from homegrown.serve.parse.prose import Prose
from homegrown.serve.parse.source import Source, Steps
from homegrown.serve.parse.tags import CALL, END_THINK, MARKS, TAGS, THINK, Spelled, spell

Event = Reasoning | Text | CallBegun | CallArguments | CallEnded
Where = Literal["reasoning", "text", "call"]

_TEXT = re.compile("[^\ud800-\udfff]+")
_THINK, _END_THINK, _CALL = MARKS[THINK], MARKS[END_THINK], MARKS[CALL]


class Reader:
    """Turns output text into events, the same ones however the text is split.

    - Thinking lasts up to `</longcat_think>`; a call written inside it is only thought of.
    - Whatever the model writes, nothing is raised, and the arguments of every call that was begun are a JSON object.
    - A call of a tool that is not declared, or one that goes wrong before its tool is known, is text.

    Args:
        tools: those that may be called.
        thinking: the prompt ends inside a thinking block.
        answer: the number that events bear.
        calls: whether calls are looked for; otherwise their tags are text.
        spelled: the tags that are also recognised by their letters. Others must come as marks (see `tags`).

    Attributes:
        where: what the text that comes next belongs to.
    """

    def __init__(
        self,
        tools: Sequence[Tool] = (),
        thinking: bool = False,
        answer: int = 0,
        calls: bool = True,
        spelled: Sequence[str] = TAGS,
    ) -> None:
        self.where: Where = "reasoning" if thinking else "text"
        self._spelled = Spelled(spelled)
        self._source = Source()
        self._out = _Out(answer)
        self._reasoning = Prose(self._out.reason)
        self._text = Prose(self._out.say)
        self._calls = CallReader(self._source, tools, self._out) if calls and tools else None
        self._steps = self._answer()

    @property
    def calls(self) -> int:
        """How many calls have been begun."""
        return self._out.number + 1

    def push(self, text: str) -> list[Event]:
        """What is certain now."""
        self._source.push(self._spelled.push(text))
        next(self._steps)
        return self._out.events()

    def finish(self, cut: bool = False) -> list[Event]:
        """The rest; nothing may be pushed any more.

        Args:
            cut: the text ends because no more of it was allowed. A number or the like that was being written may then
                be incomplete and is dropped.
        """
        self._source.push(self._spelled.flush())
        self._source.end(cut)
        for _ in self._steps:
            pass
        return self._out.events()

    def _answer(self) -> Steps[None]:
        if self.where == "reasoning":
            yield from self._think()
        while char := (yield from self._source.peek()):
            if char in (_THINK, _END_THINK):
                # A closing tag without an opening one ends a block that the prompt closed already.
                self._source.take()
                self._text.close()
                if char == _THINK:
                    yield from self._think()
            elif char == _CALL and self._calls:
                yield from self._call(self._calls)
            else:
                self._text.add(self._source.run(_TEXT) or spell(self._source.take()))
        self._text.flush()

    def _think(self) -> Steps[None]:
        self.where = "reasoning"
        if (yield from self._source.peek()) == _THINK:
            self._source.take()
        while (char := (yield from self._source.peek())) and char != _END_THINK:
            self._reasoning.add(self._source.run(_TEXT) or spell(self._source.take()))
        if char:
            self._source.take()
        self._reasoning.close()
        self.where = "text"

    def _call(self, calls: CallReader) -> Steps[None]:
        self.where = "call"
        self._source.keep(self._source.take())
        if (yield from calls.read()):
            self._source.kept()
            self._text.close()
        else:
            self._text.add(spell(self._source.kept()))
        self.where = "text"


class _Out(Sink):
    """Collects events and joins adjacent pieces of the same kind."""

    def __init__(self, answer: int) -> None:
        self._answer = answer
        self._events: list[Event] = []
        self._kind: type[Reasoning] | type[Text] | type[CallArguments] = Text
        self._pieces: list[str] = []
        self._name = ""
        self._arguments: list[str] = []
        self.number = -1

    def reason(self, text: str) -> None:
        self._add(Reasoning, text)

    def say(self, text: str) -> None:
        self._add(Text, text)

    def begin(self, name: str) -> None:
        self._join()
        self.number += 1
        self._name, self._arguments = name, []
        self._events.append(CallBegun(self._answer, self.number, name))

    def write(self, text: str) -> None:
        self._arguments.append(text)
        self._add(CallArguments, text)

    def end(self) -> None:
        self._join()
        self._events.append(CallEnded(self._answer, self.number, self._name, "".join(self._arguments)))

    def events(self) -> list[Event]:
        self._join()
        events, self._events = self._events, []
        return events

    def _add(self, kind: type[Reasoning] | type[Text] | type[CallArguments], text: str) -> None:
        if kind is not self._kind:
            self._join()
            self._kind = kind
        if text:
            self._pieces.append(text)

    def _join(self) -> None:
        if self._pieces:
            self._events.append(self._kind(self._answer, "".join(self._pieces)))
            self._pieces = []
