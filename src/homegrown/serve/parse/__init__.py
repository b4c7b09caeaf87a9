"""From output text to events: thinking, text and tool calls, as they are being written."""

from homegrown.serve.parse.reader import Reader
from homegrown.serve.parse.tags import MARKS, TAGS, spell

__all__ = ["MARKS", "TAGS", "Reader", "spell"]
