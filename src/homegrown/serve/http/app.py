"""The application: routes of every API behind the layers that every request passes.

From outside inwards: `Observe` (ids, logs, metrics, whatever is raised), `Origins` (web pages), `Authentication`,
`Bodies` (bounds; clients that leave), `Gate` (limits of keys, room in the engine), the routes. They are plain ASGI:
nothing buffers a stream.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from homegrown.serve.api import anthropic, openai, responses
from homegrown.serve.api.seal import Seal
from homegrown.serve.batches.desk import Desk
from homegrown.serve.errors import ApiError
from homegrown.serve.http.admission import Admission
from homegrown.serve.http.authentication import OPEN, Authentication
from homegrown.serve.http.bodies import Bodies
from homegrown.serve.http.clients import Keys
from homegrown.serve.http.dialect import generates, on_api_error, on_defect, on_http_error
from homegrown.serve.http.exchange import Exchange, label
from homegrown.serve.http.gate import Gate
from homegrown.serve.http.health import Health
from homegrown.serve.http.limits import Limiter, Spent
from homegrown.serve.http.logs import log_exchange
from homegrown.serve.http.metered import MeteredBackend
from homegrown.serve.http.metrics import Metrics
from homegrown.serve.http.observe import Observe
from homegrown.serve.http.options import Options
from homegrown.serve.http.origins import Origins
from homegrown.serve.http.tracing import Trace, tracer
from homegrown.serve.http.usage import UsageStore
from homegrown.serve.service import Service

_PROBES = frozenset({"/health", "/ready", "/metrics", "/v1/load"})
"""Asked again and again by machines; a log full of their success helps nobody."""


class Front:
    """The whole HTTP side of a server, as an ASGI application.

    Its lifespan starts and ends the backend. Loading goes on behind the open port: `/ready` says when it is done.

    Args:
        backend: the engine; `service` must use the same.
        routes: of the APIs.
        options: limits and places.
        keys: who may come; with none, everybody.

    Attributes:
        admission: its `draining` closes the gate.
        loading: becomes done when the engine is ready, or could not be started.
        failure: why it could not.
        on_ready: called when it is.
        desk: files and batches, if there is a place for them.

    Raises:
        UserError: a place for files or records cannot be used, or tracing is not installed.
    """

    def __init__(self, backend: MeteredBackend, routes: Sequence[BaseRoute], options: Options, keys: Keys) -> None:
        self.backend, self.options = backend, options
        self.loading: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        self.on_ready: Callable[[], None] = lambda: None
        self.admission = Admission(backend, options.max_waiting, options.max_ttft, options.drain_s)
        self._usage = UsageStore(options.usage, options.model) if options.usage else None
        self._limiter = Limiter(self._usage.spent if self._usage else lambda name: Spent())
        self._metrics = Metrics(options.model, backend, self.admission)
        backend.listeners += [self.admission, self._limiter, self._metrics]
        if self._usage:
            backend.listeners.append(self._usage)
        self._trace, self._flush = _tracing(options)
        self.desk = Desk(options.files, options, self._takes, self._limiter.afford) if options.files else None
        health = Health(backend, self.admission, self._metrics, self._usage)
        self._inner = Starlette(
            routes=[*health.routes(), *routes, *(self.desk.routes() if self.desk else [])],
            exception_handlers={ApiError: on_api_error, HTTPException: on_http_error, Exception: on_defect},
            lifespan=self._lifespan,
        )
        self._inner.router.redirect_slashes = False  # agents take a redirect for a failure
        self._app = self._layers(self._inner, keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request."""
        await self._app(scope, receive, send)

    async def close(self) -> None:
        """End what runs; a second call does nothing."""
        if self.loading is None:
            return
        loading, self.loading = self.loading, None
        loading.cancel()
        if self.desk:
            await self.desk.close()
        await asyncio.wait([loading])
        await self.backend.close()
        if self._usage:
            await asyncio.to_thread(self._usage.close)
        await asyncio.to_thread(self._flush)

    def _takes(self) -> bool:
        return self.backend.state == "ready" and not self.admission.draining

    def _layers(self, app: ASGIApp, keys: Keys) -> ASGIApp:
        options = self.options

        def first(scope: Scope) -> None:
            if generates(scope):
                self.admission.check()

        app = Gate(app, self._limiter, self.admission)
        app = Bodies(app, options.max_body, options.max_upload, options.max_bodies, first, options.log_prompts)
        app = Authentication(app, keys, OPEN | ({"/metrics", "/v1/load"} if options.open_metrics else set()))
        app = Origins(app, options.origins, options.local)
        app = Observe(app, self._done, options.replica or socket.gethostname())
        if options.origins:  # outermost: browsers ask for permission without a key
            app = CORSMiddleware(app, options.origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"])
        return app

    def _done(self, exchange: Exchange, scope: Scope) -> None:
        name = label(scope)
        self._metrics.answered(exchange, name)
        self._trace(exchange, scope, name)
        if self.options.log != "off" and not (name in _PROBES and exchange.status == 200):
            log_exchange(exchange)

    async def _load(self) -> None:
        try:
            await self.backend.start()
            self.on_ready()
        except Exception as error:  # whoever runs the server is to hear of it, and nobody else waits for this task
            self.failure = error

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.loading = asyncio.create_task(self._load())
        if self.desk:
            self.desk.start(self._inner)
        try:
            yield
        finally:
            await self.close()


def build_app(service: Service, options: Options, keys: Keys | None = None) -> Front:
    """The application that serves a model.

    Args:
        service: its `backend` must be a `MeteredBackend`, which is what counts tokens.
        options: limits and places.
        keys: who may come; by default everybody.

    Raises:
        TypeError: the backend is not metered.
        UserError: a place for files or records cannot be used, or tracing is not installed.
    """
    if not isinstance(service.backend, MeteredBackend):
        raise TypeError("the service's backend must be a MeteredBackend, or nothing would be counted")
    seal = Seal(options.secret.encode() or None)
    routes = [*openai.routes(service), *anthropic.routes(service, seal), *responses.routes(service, seal)]
    return Front(service.backend, routes, options, keys or Keys({}))


def _tracing(options: Options) -> tuple[Trace, Callable[[], None]]:
    if options.otlp:
        return tracer(options.otlp, options.model)
    return lambda exchange, scope, name: None, lambda: None
