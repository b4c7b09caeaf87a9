"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from homegrown.serve.errors import ApiError, Kind

_WORDS: dict[Kind, tuple[int, str, str | None]] = {
    "invalid": (400, "invalid_request_error", None),
    "context_length": (400, "invalid_request_error", "context_length_exceeded"),
    "authentication": (401, "authentication_error", "invalid_api_key"),
    "quota": (402, "insufficient_quota", "insufficient_quota"),
    "permission": (403, "permission_error", "permission_denied"),
    "not_found": (404, "invalid_request_error", "not_found"),
    "timeout": (408, "timeout_error", "request_timeout"),
    "conflict": (409, "conflict_error", "conflict"),
    "too_large": (413, "invalid_request_error", "request_too_large"),
    "rate_limit": (429, "rate_limit_error", "rate_limit_exceeded"),
    "overloaded": (429, "rate_limit_error", "server_overloaded"),
    "internal": (500, "server_error", None),
    "unavailable": (503, "server_error", "not_ready"),
}
"""Status, type and code of each kind."""


def body(error: ApiError) -> dict[str, Any]:
    """What is sent of an error, in a response or within a stream."""
    _, kind, code = _WORDS[error.kind]
    if error.kind == "not_found" and error.param == "model":
        code = "model_not_found"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


def render(error: ApiError, request_id: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """An error as status, body and headers. `request_id` stands in the headers of every response, not in the body."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        headers["retry-after-ms"] = str(max(1, math.ceil(1000 * error.retry_after)))
    return _WORDS[error.kind][0], body(error), headers


def event(error: ApiError) -> bytes:
    """An error within a stream; nothing follows it."""
    return b"data: " + msgspec.json.encode(body(error)) + b"\n\n"
