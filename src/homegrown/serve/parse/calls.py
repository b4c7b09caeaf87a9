"""Tool calls, in the forms of the family and in those that its models have been seen to slip into."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from homegrown.serve.conversation import Tool
from homegrown.serve.parse import values
from homegrown.serve.parse.jsontext import escape, read_value, read_whole_string
from homegrown.serve.parse.source import Source, Steps, run_through
from homegrown.serve.parse.tags import CALL, END_CALL, END_KEY, END_VALUE, KEY, MARKS, VALUE, spell

PREFIXES = ("functions.", "function.")
"""Namespaces that models put before a name."""

_TEXT = re.compile("[^\ud800-\udfff]+")
_NAME = re.compile("[^\\s({\ud800-\udfff]+")
_PUNCTUATION = re.compile(r"[)\]},;\s]+")
_KEY, _END_KEY, _VALUE, _END_VALUE = MARKS[KEY], MARKS[END_KEY], MARKS[VALUE], MARKS[END_VALUE]
_CALL, _END_CALL = MARKS[CALL], MARKS[END_CALL]
_NULL = "null"
_BREAKS = ("", _KEY, _CALL, _END_CALL)
"""What ends a value whose closing tag is missing."""


class Sink:
    """Where calls go; the reader makes events of it."""

    def begin(self, name: str) -> None:
        """A call whose name is known."""

    def write(self, text: str) -> None:
        """JSON text of its arguments."""

    def end(self) -> None:
        """It is complete."""


class CallReader:
    """Reads what stands behind `<longcat_tool_call>`. However it is written, the sink gets a JSON object.

    Args:
        source: the text.
        tools: those that may be called.
        sink: takes the calls.
    """

    def __init__(self, source: Source, tools: Sequence[Tool], sink: Sink) -> None:
        self._source, self._sink = source, sink
        self._tools: Mapping[str, Tool] = {tool.name: tool for tool in tools}
        self._longest = max(map(len, self._tools), default=0) + max(map(len, PREFIXES))

    def read(self) -> Steps[bool]:
        """Read a call, closing tag included if there is one.

        Returns:
            Whether it was one. If not, nothing has reached the sink, and what was read is the source's to give back.
        """
        if (yield from self._source.space()) == "{":
            return (yield from self._object_call())
        tool = self._tool((yield from self._name()))
        if tool is None:
            return False
        form = yield from self._source.space()
        if form == _KEY:
            self._source.take()
            yield from self._tagged(tool)
        elif form == "{":
            yield from self._object(tool)
        elif form == "(":
            return (yield from self._python(tool))
        elif form == _END_CALL or (not form and not self._source.cut):
            yield from self._empty(tool)
        else:
            return False
        return True

    def _tool(self, name: str) -> Tool | None:
        for prefix in ("", *PREFIXES):
            if name.startswith(prefix) and (tool := self._tools.get(name[len(prefix) :])):
                return tool
        return None

    def _name(self) -> Steps[str]:
        """A name, or more of it than any tool has."""
        name = ""
        while len(name) <= self._longest and (yield from self._source.peek()):
            run = self._source.run(_NAME)
            if not run:
                break
            name += run
        return name

    def _empty(self, tool: Tool) -> Steps[None]:
        """A call without arguments."""
        self._sink.begin(tool.name)
        self._sink.write("{}")
        self._sink.end()
        yield from self._tail(whole=True)

    def _object(self, tool: Tool) -> Steps[None]:
        """A call whose arguments are a JSON object, which comes next."""
        self._sink.begin(tool.name)
        yield from self._object_arguments()

    def _object_arguments(self) -> Steps[None]:
        whole = yield from read_value(self._source, self._sink.write)
        self._sink.end()
        yield from self._tail(whole)

    def _python(self, tool: Tool) -> Steps[bool]:
        """`name({...})`."""
        self._source.take()
        inside = yield from self._source.space()
        if inside == "{":
            yield from self._object(tool)
        elif inside == ")":
            yield from self._empty(tool)
        return bool(inside) and inside in "{)"

    def _object_call(self) -> Steps[bool]:
        """`{"name": ..., "arguments": {...}}`, in either order."""
        source, sink = self._source, self._sink
        tool, begun, right = None, False, True
        early: list[str] = []
        source.take()
        while right and (yield from self._behind_comma()) not in ("}", _END_CALL, ""):
            key = yield from self._member()
            if key == "name" and tool is None:
                tool = self._tool((yield from read_whole_string(source)) or "")
                right = tool is not None
            elif key in ("arguments", "parameters") and tool and not begun and not early:
                sink.begin(tool.name)
                begun = True
                right = yield from self._arguments(sink.write)
            elif key in ("arguments", "parameters") and not begun and not early:
                right = yield from self._arguments(early.append)
            else:
                right = key is not None and (yield from read_value(source, _ignore))
        if tool is None or not (begun or early or right):
            return False
        if not begun:
            sink.begin(tool.name)
            sink.write("".join(early) or "{}")
        sink.end()
        yield from self._tail(right)
        return True

    def _behind_comma(self) -> Steps[str]:
        while (char := (yield from self._source.space())) == ",":
            self._source.take()
        return char

    def _member(self) -> Steps[str | None]:
        """The next key of an object, with its colon; None where it is malformed."""
        key = yield from read_whole_string(self._source)
        if key is None or (yield from self._source.space()) != ":":
            return None
        self._source.take()
        return key

    def _arguments(self, write: Callable[[str], None]) -> Steps[bool]:
        """Read an object, or JSON text of one, and write an object; whether it was whole."""
        char = yield from self._source.space()
        if char == "{":
            return (yield from read_value(self._source, write))
        if char != '"':
            write("{}")
            return (yield from read_value(self._source, _ignore))
        text = yield from read_whole_string(self._source)
        inner = Source(text or "", ended=True)
        if run_through(inner.space()) == "{":
            run_through(read_value(inner, write))
        else:
            write("{}")
        return text is not None

    def _tagged(self, tool: Tool) -> Steps[None]:
        """Keys and values in tags. The first opening tag has been taken."""
        self._sink.begin(tool.name)
        if (yield from self._source.space()) == "{":
            yield from self._object_arguments()
            return
        seen: set[str] = set()
        more = True
        while more:
            key = yield from self._key()
            if key:
                yield from self._value(tool, key, seen)
            more = yield from self._next_key()
        self._sink.write("}" if seen else "{}")
        self._sink.end()

    def _key(self) -> Steps[str]:
        """Read a key up to its value; empty if no value follows."""
        pieces: list[str] = []
        while (char := (yield from self._source.peek())) and (run := self._source.run(_TEXT)):
            pieces.append(run)
        if char == _END_KEY:
            self._source.take()
            char = yield from self._source.space()
        if char in _BREAKS:
            return ""
        if char == _VALUE:
            self._source.take()
        return "".join(pieces).strip()

    def _value(self, tool: Tool, key: str, seen: set[str]) -> Steps[None]:
        """Read a value and write it with its key. Of a key that comes twice the first value counts."""
        write = _ignore if key in seen else self._sink.write
        opening = f'{", " if seen else "{"}"{escape(key)}": '
        kind = values.kind(tool.parameters, key)
        if kind == "data":
            pieces: list[str] = []
            end = yield from self._up_to_end(pieces.append)
            if not end and self._source.cut:
                return
            write(opening + values.as_json("".join(pieces)))
        elif kind == "nullable" and (head := (yield from self._head(_NULL))) is None:
            write(opening + _NULL)
        else:
            write(f'{opening}"{head if kind == "nullable" else ""}')
            yield from self._up_to_end(lambda text: write(escape(text)))
            write('"')
        seen.add(key)

    def _head(self, word: str) -> Steps[str | None]:
        """Read a value as long as it may be this word: what was read, or None if it is the word."""
        head = ""
        while len(head) < len(word) and (yield from self._source.peek()) == word[len(head)]:
            head += self._source.take()
        if head != word or (yield from self._source.peek()) not in (*_BREAKS, _END_VALUE):
            return head
        yield from self._up_to_end(_ignore)
        return None

    def _up_to_end(self, write: Callable[[str], None]) -> Steps[str]:
        """Read a value up to its closing tag, or to what shows that it is missing; the character that ended it.

        Tags that cannot stand here are text. A line end before a missing closing tag is not part of the value.
        """
        held = ""
        while (char := (yield from self._source.peek())) not in (*_BREAKS, _END_VALUE):
            text = held + (self._source.run(_TEXT) or spell(self._source.take()))
            held = "\n" if text.endswith("\n") else ""
            write(text.removesuffix("\n"))
        if char == _END_VALUE:
            write(held)
            self._source.take()
        return char

    def _next_key(self) -> Steps[bool]:
        """Skip to the next key; False, and behind the closing tag if there is one, if there is none."""
        while char := (yield from self._source.peek()):
            if char == _CALL:
                return False
            taken = self._source.run(_TEXT) or self._source.take()
            if taken in (_KEY, _END_CALL):
                return taken == _KEY
        return False

    def _tail(self, whole: bool) -> Steps[None]:
        """Pass the closing tag and what may stand before it.

        Args:
            whole: the arguments were in order, so what does not belong here is text behind a call that was not closed.
                If they were not, it is their rest, and worth nothing.
        """
        while char := (yield from self._source.peek()):
            if char == _CALL:
                return
            if char in (_END_CALL, _KEY, _END_KEY, _VALUE, _END_VALUE):
                self._source.take()
                if char == _END_CALL:
                    return
            elif not self._source.run(_PUNCTUATION):
                if whole:
                    return
                _ = self._source.run(_TEXT) or self._source.take()


def _ignore(text: str) -> None:
    pass
