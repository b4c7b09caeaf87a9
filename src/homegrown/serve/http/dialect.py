"""Errors in the words of the API whose route was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from homegrown.serve.api.anthropic import errors as anthropic
from homegrown.serve.api.openai import errors as openai
from homegrown.serve.errors import ApiError, Kind

GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
"""Routes that make an engine work when they are posted to."""

_KINDS: Mapping[int, Kind] = {
    401: "authentication", 403: "permission", 404: "not_found", 408: "timeout", 409: "conflict", 413: "too_large",
    429: "rate_limit", 503: "unavailable",
}  # fmt: skip

_Render = Callable[[ApiError, str], tuple[int, dict[str, Any], dict[str, str]]]


def generates(scope: Scope) -> bool:
    """Whether a request makes an engine work."""
    return bool(scope["method"] == "POST" and scope["path"] in GENERATING)


def respond(scope: Scope, error: ApiError, request_id: str) -> JSONResponse:
    """The response that tells of an error."""
    render: _Render = anthropic.render if scope["path"].startswith("/v1/messages") else openai.render
    status, body, headers = render(error, request_id)
    return JSONResponse(body, status, headers)


async def on_api_error(request: Request, error: Exception) -> JSONResponse:
    """Exception handler for `ApiError`."""
    if not isinstance(error, ApiError):
        raise error
    return respond(request.scope, error, request_id(request.scope))


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Exception handler for what the router says: no such route, another method."""
    if not isinstance(error, HTTPException):
        raise error
    path, method = request.url.path, request.method
    message = {
        404: f"there is no {path} here; see /v1/models for a first request",
        405: f"{path} does not take {method}",
    }.get(error.status_code, str(error.detail))
    kind = _KINDS.get(error.status_code, "invalid" if error.status_code < 500 else "internal")
    response = respond(request.scope, ApiError(kind, message), request_id(request.scope))
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


def request_id(scope: Scope) -> str:
    """The id that the outermost layer gave the request; empty without one."""
    return str(scope.get("state", {}).get("request_id", ""))


async def on_defect(request: Request, error: Exception) -> JSONResponse:
    """Exception handler for anything else, which is a defect of this server. The outermost layer logs it."""
    number = request_id(request.scope)
    message = f"this server has a defect; its log has more under {number}"
    return respond(request.scope, ApiError("internal", message), number)
