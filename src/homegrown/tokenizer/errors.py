"""What goes wrong with tokenizers."""

from __future__ import annotations

from homegrown.config import UserError


class TokenizerError(UserError):
    """A tokenizer cannot be trained, read or used; the message names the file or value and what would be right."""
