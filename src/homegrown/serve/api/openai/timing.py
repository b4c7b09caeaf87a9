"""How long the server took until its response began."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ProcessingTime:
    """Adds the header `openai-processing-ms`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        began = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = round(1000 * (time.perf_counter() - began))
                message["headers"] = [*message["headers"], (b"openai-processing-ms", b"%d" % took)]
            await send(message)

        await self._app(scope, receive, timed)
