"""What goes wrong with directories that others wrote."""

from __future__ import annotations

from homegrown.config import UserError


class HubError(UserError):
    """A directory that cannot be read or written; the message names file and tensor or key, and what would be right."""


class HubWarning(UserWarning):
    """Something in a directory that was understood in one of several possible ways; the message says which."""
