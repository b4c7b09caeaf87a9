"""What routers, dashboards and people ask of the server itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from homegrown.serve.backend import Backend
from homegrown.serve.errors import ApiError
from homegrown.serve.http.admission import Admission
from homegrown.serve.http.clients import ANONYMOUS, Client
from homegrown.serve.http.metrics import CONTENT_TYPE, Metrics
from homegrown.serve.http.usage import UsageStore

PAGE = Path(__file__).parent.parent / "page"

_PAGE_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Health:
    """Handlers of `/`, `/health`, `/ready`, `/metrics`, `/v1/load` and `/v1/usage`.

    Args:
        backend: the engine.
        admission: knows what waits.
        metrics: what `/metrics` shows.
        usage: what `/v1/usage` shows; None: nothing is recorded.
    """

    def __init__(self, backend: Backend, admission: Admission, metrics: Metrics, usage: UsageStore | None) -> None:
        self._backend, self._admission, self._metrics, self._usage = backend, admission, metrics, usage

    def routes(self) -> list[BaseRoute]:
        """All of them. GET routes answer HEAD too."""
        found: list[BaseRoute] = [
            Route("/", self.root),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics),
            Route("/v1/load", self.load),
            Route("/v1/usage", self.usage),
        ]
        if PAGE.is_dir():
            found.append(Mount("/page", StaticFiles(directory=PAGE)))
        return found

    async def root(self, request: Request) -> Response:
        """The chat page."""
        page = PAGE / "index.html"
        if page.exists():
            return FileResponse(page, headers=_PAGE_HEADERS)
        return PlainTextResponse("homegrown: OpenAI and Anthropic APIs at /v1; this installation has no chat page\n")

    async def health(self, request: Request) -> Response:
        """The process is alive, whatever else."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether requests are taken: 200 or 503."""
        state = "draining" if self._admission.draining else self._backend.state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def load(self, request: Request) -> Response:
        """How busy this replica is, for routers."""
        stats = self._backend.stats()
        return JSONResponse(
            {
                "ready": self._backend.state == "ready" and not self._admission.draining,
                "admitted": self._admission.running,
                "running": stats.running,
                "waiting": stats.waiting,
                "waiting_tokens": stats.waiting_tokens,
                "predicted_wait_s": round(self._admission.predicted_wait(), 3),
                "cache_usage": stats.pages_used / stats.pages if stats.pages else 0.0,
            }
        )

    async def usage(self, request: Request) -> Response:
        """Tokens per key, day and model: the client's own, or everybody's for one that may see them."""
        if self._usage is None:
            raise ApiError("not_found", "no usage is recorded here; the server was started without --usage FILE")
        client: Client = getattr(request.state, "client", ANONYMOUS)
        asked, since = request.query_params.get("name", ""), request.query_params.get("since", "")
        if not client.admin and asked not in ("", client.name):
            raise ApiError("permission", "this key may only see its own usage")
        days = self._usage.days(asked if client.admin else client.name, since)
        data: list[dict[str, Any]] = [
            {
                "day": day.day,
                "name": day.name,
                "model": day.model,
                "answers": day.answers,
                "prompt_tokens": day.prompt,
                "cached_tokens": day.cached,
                "completion_tokens": day.completion,
            }
            for day in days
        ]
        return JSONResponse({"object": "list", "data": data})
