"""An engine in a thread of this process: for tests, and for work without a server."""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback

from homegrown.serve.worker.client import Client
from homegrown.serve.worker.protocol import Close, Failed, Figures, Order, Outputs, Report
from homegrown.serve.worker.serving import Inbox, Steps, serve


class ThreadBackend(Client):
    """Implements `Backend` around an engine that is there already.

    An engine that raises is not started anew: the state stays `dead`.

    Args:
        engine: nobody else may use it from `start` on.
    """

    def __init__(self, engine: Steps) -> None:
        super().__init__()
        self._engine = engine
        self._inbox: Inbox = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Start the thread."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="engine", daemon=True)
        self._thread.start()
        self._state = "ready"

    async def close(self) -> None:
        """Abort what runs, and end the thread behind the step it is in."""
        self._state = "dead"
        self._inbox.put(Close())
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._end_all("abort")

    def _send(self, order: Order) -> None:
        self._inbox.put(order)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        def send(report: Report) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._receive, report)

        try:
            serve(self._engine, self._inbox, send)
        except Exception as error:
            traceback.print_exc()
            send(Failed(f"{type(error).__name__}: {error}"))

    def _receive(self, report: Report) -> None:
        if isinstance(report, Outputs):
            self._deliver(report.outputs)
        elif isinstance(report, Figures):
            self._stats = report.stats
        elif isinstance(report, Failed):
            self._state = "dead"
            self._end_all("error", "the engine failed, and the request with it")
