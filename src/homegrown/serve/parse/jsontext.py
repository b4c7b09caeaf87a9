"""JSON as a model writes it, passed on so that what has been passed on can always be completed.

Commas, keys and numbers wait until what follows them is certain, so a text that breaks off or goes wrong anywhere is
closed by brackets alone. Small mistakes are mended on the way: trailing commas, raw line ends in strings, escapes that
JSON does not have, Python's names of constants. What JSON allows and clients' decoders choke on counts as malformed:
boundless nesting, and numbers that are none to a computer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

from homegrown.serve.parse.source import Source, Steps
from homegrown.serve.parse.tags import CALL, END_CALL, MARKS, spell

MAX_DEPTH = 100
MAX_DIGITS = 1000

Emit = Callable[[str], None]

_PLAIN = re.compile('[^"\\\\\x00-\x1f\ud800-\udfff]+')
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_CONSTANTS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGH, _LOW = ("d8", "d9", "da", "db"), ("dc", "dd", "de", "df")
_HEX = frozenset("0123456789abcdefABCDEF")
_ENDS = (MARKS[CALL], MARKS[END_CALL])
_CLOSERS = {"{": "}", "[": "]"}


def escape(text: str) -> str:
    """Text as the inside of a JSON string. Escapes stand for single characters, so pieces can be joined."""
    return _SURROGATE.sub("\ufffd", json.dumps(text, ensure_ascii=False)[1:-1])


def read_string(source: Source, emit: Emit) -> Steps[bool]:
    """Read a string whose opening quote comes next, and emit its inside, escaped.

    Returns:
        Whether its closing quote was there.
    """
    source.take()
    pairs = _Pairs(emit)
    while (char := (yield from source.peek())) and char not in _ENDS and char != '"':
        if char == "\\":
            source.take()
            pairs.add((yield from _escape(source)))
        else:
            pairs.add(source.run(_PLAIN) or escape(spell(source.take())))
    pairs.add("")
    if char == '"':
        source.take()
    return char == '"'


class _Pairs:
    """Passes pieces on; escaped surrogates that do not come in pairs stand for no character and become U+FFFD."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._high = ""

    def add(self, piece: str) -> None:
        low = piece[2:4].lower() in _LOW and piece.startswith("\\u")
        if self._high:
            self._emit(self._high if low else "\ufffd")
        elif low:
            piece = "\ufffd"
        self._high = piece if piece[2:4].lower() in _HIGH and piece.startswith("\\u") else ""
        self._emit("" if self._high else piece)


def _escape(source: Source) -> Steps[str]:
    """What stands behind a backslash, as JSON has it; the backslash itself where JSON has no such escape."""
    char = yield from source.peek()
    if char and char in '"\\/bfnrt':
        return "\\" + source.take()
    if char != "u":
        return "\\\\" if char else ""
    source.take()
    digits = ""
    while len(digits) < 4 and (char := (yield from source.peek())) and char in _HEX:
        digits += source.take()
    if len(digits) == 4:
        return f"\\u{digits}"
    return f"\\\\u{digits}" if char else ""


def read_whole_string(source: Source) -> Steps[str | None]:
    """Read a string, decoded; None where there is none or it does not end."""
    if (yield from source.space()) != '"':
        return None
    pieces: list[str] = []
    whole = yield from read_string(source, pieces.append)
    return json.loads(f'"{"".join(pieces)}"') if whole else None


def read_value(source: Source, emit: Emit) -> Steps[bool]:
    """Read a JSON value and emit it in the spacing of `json.dumps`, closing what is open where it breaks off.

    Nothing is emitted for a value whose beginning is wrong.

    Returns:
        Whether it was all there and right.
    """
    writer = _Writer(emit)
    going = whole = True
    while going:
        char = yield from source.space()
        if char == '"':
            writer.begin('"')
            going = whole = yield from read_string(source, emit)
            emit('"')
        elif char and char in _CLOSERS and len(writer.brackets) < MAX_DEPTH:
            writer.open(source.take())
        else:
            scalar = yield from _scalar(source)
            going = bool(scalar)
            if going:
                writer.begin(scalar)
        going = going and (yield from _onward(source, writer))
    complete = whole and writer.begun and not writer.brackets
    while writer.brackets:
        writer.close()
    return complete


class _Writer:
    """Emits values with what belongs before them, and knows what is open."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.brackets: list[str] = []
        self.fresh = False
        self.begun = False
        self.key = ""

    def begin(self, text: str) -> None:
        """Emit a value or its beginning, behind its comma and key."""
        comma = ", " if self.brackets and not self.fresh else ""
        self._emit(comma + self.key + text)
        self.begun, self.fresh, self.key = True, False, ""

    def open(self, bracket: str) -> None:
        """Emit the opening bracket of an object or a list."""
        self.begin(bracket)
        self.brackets.append(bracket)
        self.fresh = True

    def close(self) -> None:
        """Close the innermost bracket."""
        self._emit(_CLOSERS[self.brackets.pop()])
        self.fresh = False


def _onward(source: Source, writer: _Writer) -> Steps[bool]:
    """Pass what stands between a value and the next one; whether there is a next one."""
    comma = writer.fresh
    while writer.brackets:
        char = yield from source.space()
        if char == _CLOSERS[writer.brackets[-1]]:
            source.take()
            writer.close()
            comma = False
        elif char == "," and not comma:
            source.take()
            comma = True
        elif comma:
            return writer.brackets[-1] == "[" or (yield from _key(source, writer))
        else:
            return False
    return False


def _key(source: Source, writer: _Writer) -> Steps[bool]:
    """Read a key and its colon; whether they were there."""
    key = yield from read_whole_string(source)
    if key is None or (yield from source.space()) != ":":
        return False
    source.take()
    writer.key = f'"{escape(key)}": '
    return True


def _scalar(source: Source) -> Steps[str]:
    """Read a number or a constant; empty where there is none, or where it may go on behind the end."""
    pieces: list[str] = []
    while (char := (yield from source.peek())) and (run := source.run(_SCALAR)):
        pieces.append(run)
    text = "".join(pieces)
    if not char and source.cut:
        return ""
    if len(text) > MAX_DIGITS or not _NUMBER.fullmatch(text):
        return _CONSTANTS.get(text, "")
    return text if math.isfinite(float(text)) else ""
