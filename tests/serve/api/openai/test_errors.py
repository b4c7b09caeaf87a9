"""Errors as the official SDK understands them."""

from typing import get_args

import httpx
import openai
import pytest

from homegrown.serve.api.openai.errors import event, render
from homegrown.serve.errors import ApiError, Kind

CLASSES = {
    400: openai.BadRequestError, 401: openai.AuthenticationError, 403: openai.PermissionDeniedError,
    404: openai.NotFoundError, 409: openai.ConflictError, 429: openai.RateLimitError, 500: openai.InternalServerError,
    503: openai.InternalServerError,
}  # fmt: skip


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind(kind):
    status, body, headers = render(ApiError(kind, "Why.", param="x"), "req_1")
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["message"], body["error"]["param"], headers) == ("Why.", "x", {})
    response = httpx.Response(status, json=body, request=httpx.Request("POST", "http://x"))
    made = openai.OpenAI(api_key="x")._make_status_error_from_response(response)
    assert type(made) is CLASSES.get(status, openai.APIStatusError)
    assert (made.code, made.param) == (body["error"]["code"], "x")


def test_codes_that_agents_look_for():
    codes = {kind: render(ApiError(kind, "."), "")[1]["error"]["code"] for kind in get_args(Kind)}
    assert codes["context_length"] == "context_length_exceeded"
    assert codes["rate_limit"] == "rate_limit_exceeded"
    assert codes["authentication"] == "invalid_api_key"
    assert codes["quota"] == "insufficient_quota"
    assert render(ApiError("not_found", ".", param="model"), "")[1]["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(("seconds", "headers"), [(0.0, ("1", "1")), (0.25, ("1", "250")), (2.1, ("3", "2100"))])
def test_when_to_try_again(seconds, headers):
    status, _, found = render(ApiError("overloaded", ".", retry_after=seconds), "")
    assert status == 429
    assert (found["retry-after"], found["retry-after-ms"]) == headers


def test_within_a_stream():
    assert event(ApiError("internal", "é.")).startswith('data: {"error":{"message":"é."'.encode())
    assert event(ApiError("internal", ".")).endswith(b"}\n\n")
