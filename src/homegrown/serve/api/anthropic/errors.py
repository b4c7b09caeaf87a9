"""Errors in the words of the Messages API."""

from __future__ import annotations

import math
from typing import Any

from homegrown.serve.errors import ApiError, Kind

_STATUS_AND_TYPE: dict[Kind, tuple[int, str]] = {
    "invalid": (400, "invalid_request_error"),
    "context_length": (400, "invalid_request_error"),
    "authentication": (401, "authentication_error"),
    "quota": (402, "billing_error"),
    "permission": (403, "permission_error"),
    "not_found": (404, "not_found_error"),
    "timeout": (504, "timeout_error"),
    "conflict": (409, "conflict_error"),
    "too_large": (413, "request_too_large"),
    "rate_limit": (429, "rate_limit_error"),
    "overloaded": (529, "overloaded_error"),
    "internal": (500, "api_error"),
    "unavailable": (529, "overloaded_error"),
}
_PASSING: frozenset[Kind] = frozenset({"timeout", "rate_limit", "overloaded", "internal", "unavailable"})


def render(error: ApiError, request_id: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of the response to a request that is not carried out."""
    status, _ = _STATUS_AND_TYPE[error.kind]
    headers = {"request-id": request_id, "x-should-retry": "true" if error.kind in _PASSING else "false"}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return status, body(error, request_id), headers


def body(error: ApiError, request_id: str) -> dict[str, Any]:
    """The same as JSON, which is also the data of an `error` event in a stream."""
    _, kind = _STATUS_AND_TYPE[error.kind]
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
