"""A supervised run as a whole: the controller with the agent of its host, or the agent of another host."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from homegrown.config.errors import UsageError
from homegrown.supervise.agent import Agent, Site
from homegrown.supervise.controller import Controller, continued
from homegrown.supervise.journal import Journal
from homegrown.supervise.rules import Rules

TOKEN = "HOMEGROWN_TOKEN"
"""Environment variable: secret that the agents of a run share."""


class Address(NamedTuple):
    """A TCP address."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, flag: str) -> Address:
        """From `HOST:PORT`.

        Raises:
            UsageError: it is none.
        """
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal():
            raise UsageError(f"{flag} {text}: must be HOST:PORT, as in {flag} 10.0.0.1:29400")
        return cls(host.strip("[]"), int(port))


async def lead(rules: Rules, site: Site, say: Callable[[str], None], serve: Address | None = None) -> int:
    """Run the controller, and the agent of this host; the run's exit status.

    Args:
        rules: of the run.
        site: this host.
        say: shows a line on the console.
        serve: where agents of other hosts find the controller; without it there are none.
    """
    token = os.environ.get(TOKEN, "") if serve else secrets.token_hex(16)
    journal = Journal(site.run / "supervisor.jsonl", say)
    policy = continued(dataclasses.replace(rules, home=site.name), journal.path, site.watch)
    controller = Controller(policy, journal, site.run, token)
    address = await controller.listen(*(serve or Address("127.0.0.1", 0)))
    # The controller is in this very process: there is no silence between the two that would call for a lease.
    agent = Agent(dataclasses.replace(site, lease=float("inf")), *address, journal, token)
    working = asyncio.create_task(agent.run())
    try:
        with _signals(controller.interrupt):
            # Whichever fails first ends both; if none does, the agent ends when it is told that the run is over.
            over, _ = await asyncio.gather(controller.over, working)
            return over.status
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await controller.close()


async def join(site: Site, controller: Address, say: Callable[[str], None]) -> int:
    """Run the agent of a host whose controller is elsewhere, until the run is over or a signal asks it to leave."""
    journal = Journal(site.run / f"supervisor-{site.name}.jsonl", say)
    journal.write("joins", f"{site.name} joins the run at {controller.host}:{controller.port}")
    agent = Agent(site, *controller, journal, os.environ.get(TOKEN, ""))
    with _signals(lambda number: agent.leave()):
        finish = await agent.run()
    journal.write("over", finish.reason, status=finish.status)
    return finish.status


@contextmanager
def _signals(handle: Callable[[int], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    kinds = (signal.SIGINT, signal.SIGTERM)
    for kind in kinds:
        loop.add_signal_handler(kind, handle, int(kind))
    try:
        yield
    finally:
        for kind in kinds:
            loop.remove_signal_handler(kind)
