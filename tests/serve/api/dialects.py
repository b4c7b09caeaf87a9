"""The Messages and the Responses API over a scripted backend, and the official SDKs as their clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from anthropic import Anthropic
from openai import OpenAI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from homegrown.serve.api import anthropic, responses
from homegrown.serve.api.anthropic import errors as anthropic_errors
from homegrown.serve.api.openai import errors as openai_errors
from homegrown.serve.api.responses.store import Store
from homegrown.serve.backend import Backend
from homegrown.serve.card import ModelCard
from homegrown.serve.errors import ApiError
from homegrown.serve.service import Service

from ..running import running
from ..tiny import tiny_config, tiny_tokenizer

CARD = ModelCard(id="tiny", context_length=2048, max_output=512)


class Tenants:
    """Says that the client is the one that a header names."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = [value.decode() for name, value in scope.get("headers", ()) if name == b"x-tenant"]
        if names:
            scope.setdefault("state", {})["client"] = type("Client", (), {"tenant": names[0], "priority": 3})()
        await self._app(scope, receive, send)


def build(backend: Backend, card: ModelCard = CARD, store: Store | None = None, **options: Any) -> Starlette:
    """An application with both, and errors in the words of each."""
    service = Service(backend, tiny_tokenizer(), tiny_config(), card)
    routes = [*anthropic.routes(service, **options), *responses.routes(service, store=store, **options)]
    return Starlette(routes=routes, exception_handlers={ApiError: _on_error}, middleware=[Middleware(Tenants)])


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    dialect = anthropic_errors if request.url.path.startswith("/v1/messages") else openai_errors
    status, body, headers = dialect.render(error, "req_1")
    return JSONResponse(body, status, headers)


@contextmanager
def messages_client(app: ASGIApp) -> Iterator[Anthropic]:
    """Anthropic's SDK, talking to a real server."""
    with running(app) as address, Anthropic(base_url=address, api_key="x", max_retries=0) as sdk:
        yield sdk


@contextmanager
def responses_client(app: ASGIApp) -> Iterator[OpenAI]:
    """OpenAI's SDK, talking to a real server."""
    with running(app) as address, OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as sdk:
        yield sdk


def asking(app: ASGIApp) -> httpx.AsyncClient:
    """Requests without a server between: the response comes in one piece."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
