"""An agent's connection to the controller: made again whenever it breaks, with the time it was last known to work."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from homegrown.supervise import messages as say

RETRY = 0.5
"""Seconds between attempts to connect."""
TIMEOUT = 2.0
"""Seconds that connecting may take."""
SILENCE = 5.0
"""Seconds without an answer after which a connection is given up and made anew."""
LINE = 1 << 26
"""Bytes a message may have."""


class Link:
    """Orders come in, reports go out. What cannot be sent is dropped: whoever reconnects begins with a new `Hello`.

    Attributes:
        confirmed: when the last report was sent that the controller has answered; the lease runs from there.
    """

    def __init__(self, host: str, port: int, hello: Callable[[str], say.Hello]) -> None:
        self.confirmed = time.monotonic()
        self._address = (host, port)
        self._hello = hello
        self._orders: asyncio.Queue[say.Order] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None
        self._unanswered: deque[float] = deque()  # when `Hello` and beats were sent; answers come in their order
        self._task: asyncio.Task[None] | None = None

    def send(self, report: say.Report) -> None:
        """Tell the controller something, if it can be reached."""
        if self._writer is None or self._writer.is_closing():
            return
        if isinstance(report, say.Hello | say.Beat):
            self._unanswered.append(time.monotonic())
        self._writer.write(say.line(report))

    async def orders(self, seconds: float) -> list[say.Order]:
        """Orders that came, after waiting up to some seconds for the first one."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
        elif self._task.done():
            self._task.result()  # it ends with an error alone
        found = []
        with suppress(TimeoutError):
            found.append(await asyncio.wait_for(self._orders.get(), seconds))
        while not self._orders.empty():
            found.append(self._orders.get_nowait())
        return found

    async def close(self) -> None:
        """Hang up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._hang_up()

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TIMEOUT):
                    reader, self._writer = await asyncio.open_connection(*self._address, limit=LINE)
            except (OSError, TimeoutError):
                await asyncio.sleep(RETRY)
                continue
            self.send(self._hello(self._writer.get_extra_info("sockname")[0]))
            with suppress(OSError, TimeoutError):
                await self._listen(reader)
            self._hang_up()
            await asyncio.sleep(RETRY)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            async with asyncio.timeout(SILENCE):
                line = await reader.readline()
            if not line:
                return
            order = say.order(line)
            if isinstance(order, say.Welcome | say.Ack):
                self.confirmed = self._unanswered.popleft()
            self._orders.put_nowait(order)

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = None
        self._unanswered.clear()
