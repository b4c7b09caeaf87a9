"""What goes wrong with grammars."""

from __future__ import annotations

from homegrown.config import UserError

_LONGEST = 300
"""Characters of a library's message that are passed on."""


class GrammarError(UserError):
    """A grammar, schema or regex that cannot be used, or an answer that cannot follow it; the message says why."""


def explained(message: str) -> str:
    """The gist of llguidance's error text, on one line.

    What follows the first line is the grammar again, or a backtrace.
    """
    if message.startswith("panic:"):
        return "it is too large"
    if message.startswith("NoExtension"):
        return "it matches no text"
    line = message.strip().partition("\n")[0]
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
