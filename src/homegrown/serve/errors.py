"""What clients are told when something is wrong, before it is put into the words of an API."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "invalid",
    "context_length",
    "authentication",
    "quota",
    "permission",
    "not_found",
    "timeout",
    "conflict",
    "too_large",
    "rate_limit",
    "overloaded",
    "internal",
    "unavailable",
]
"""What went wrong. Each API has its own status, type and code for each of these."""


class ApiError(Exception):
    """A request that is not carried out.

    Args:
        kind: what went wrong.
        message: one sentence: what was wrong, where, and what would be right. It never repeats a prompt or a secret.
        param: the field of the request that is to blame.
        retry_after: seconds after which another try makes sense.
    """

    def __init__(self, kind: Kind, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.param, self.retry_after = kind, message, param, retry_after
