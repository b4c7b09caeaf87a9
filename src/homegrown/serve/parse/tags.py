"""The family's tags inside a turn, each as one character that no text can hold.

A tokenizer usually has every tag as a token of its own. What a model writes with such a token is a tag; the same
spelling in ordinary tokens is text: a file about chat templates, copied into a tool call. To keep the two apart through
detokenisation a tag travels as a *mark*, a lone surrogate: decoded UTF-8 never has one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

THINK, END_THINK = "<longcat_think>", "</longcat_think>"
CALL, END_CALL = "<longcat_tool_call>", "</longcat_tool_call>"
KEY, END_KEY = "<longcat_arg_key>", "</longcat_arg_key>"
VALUE, END_VALUE = "<longcat_arg_value>", "</longcat_arg_value>"

TAGS = (THINK, END_THINK, CALL, END_CALL, KEY, END_KEY, VALUE, END_VALUE)
"""What structures an answer."""

MARKS = {tag: chr(0xD800 + index) for index, tag in enumerate(TAGS)}
"""The mark of each tag."""

_SPELLING = {mark: tag for tag, mark in MARKS.items()}
_MARK = re.compile("[{}]".format("".join(_SPELLING)))


def spell(text: str) -> str:
    """The text with every mark written out as its tag."""
    return _MARK.sub(lambda found: _SPELLING[found.group()], text)


class Spelled:
    """Turns tags that are spelled out into marks, for tokenizers that do not have them as tokens.

    Args:
        tags: those to look for. The end of the text that may become one is held back.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        self._tags = tuple(tags)
        self._whole = re.compile("|".join(map(re.escape, tags))) if tags else None
        self._held = ""

    def push(self, text: str) -> str:
        """The text up to where a tag may have begun."""
        if self._whole is None:
            return text
        text = self._whole.sub(lambda found: MARKS[found.group()], self._held + text)
        # No tag has a second "<", so only the last one can be the beginning of one that is not whole yet.
        start = text.rfind("<")
        partial = start >= 0 and any(tag.startswith(text[start : start + len(tag)]) for tag in self._tags)
        cut = start if partial else len(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back, when nothing follows."""
        rest, self._held = self._held, ""
        return rest
