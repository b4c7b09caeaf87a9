"""The loop around an engine: orders between steps, outputs after each."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Protocol

from homegrown.serve.messages import Output, Request, Stats
from homegrown.serve.worker.protocol import Abort, Add, Close, Figures, Order, Outputs, Report

FIGURES_EVERY = 0.25
"""Seconds between reports of figures while the engine is busy."""

Send = Callable[[Report], None]
Inbox = queue.SimpleQueue[Order]


class Steps(Protocol):
    """An engine, as far as the loop knows it."""

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""

    def add(self, request: Request) -> None:
        """Take a request."""

    def abort(self, request_id: str) -> None:
        """End a request, if it has not ended."""

    def step(self) -> list[Output]:
        """Do some work."""

    def stats(self) -> Stats:
        """How it is doing."""


def serve(engine: Steps, inbox: Inbox, send: Send) -> None:
    """Run an engine until a `Close` comes.

    Orders are taken as they come while there is nothing to do, and between steps otherwise.

    Args:
        engine: what does the work. What it raises ends the loop.
        inbox: orders.
        send: takes reports: one per step that made something, figures now and then and when all is done.
    """
    reported = 0.0
    while True:
        if engine.idle:
            send(Figures(engine.stats()))
        for order in _orders(inbox, wait=engine.idle):
            if isinstance(order, Add):
                engine.add(order.request)
            elif isinstance(order, Abort):
                engine.abort(order.id)
            elif isinstance(order, Close):
                return
        outputs = engine.step()
        if outputs:
            send(Outputs(outputs))
        if time.monotonic() - reported > FIGURES_EVERY:
            send(Figures(engine.stats()))
            reported = time.monotonic()


def _orders(inbox: Inbox, wait: bool) -> list[Order]:
    """What has come; at least one order if told to wait."""
    orders = [inbox.get()] if wait else []
    while True:
        try:
            orders.append(inbox.get_nowait())
        except queue.Empty:
            return orders
