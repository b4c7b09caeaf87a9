"""What goes wrong with tokenizers."""

from __future__ import annotations


class TokenizerError(ValueError):
    """A tokenizer cannot be trained, read or used; the message names the file or value and what would be right."""
