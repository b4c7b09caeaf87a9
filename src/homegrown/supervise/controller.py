"""The controller: hears the agents, lets the policy decide, and carries its decisions out."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from homegrown.config.atomic import write_text
from homegrown.config.errors import UserError
from homegrown.parallel import flight
from homegrown.supervise import messages as say
from homegrown.supervise.journal import Journal, read_journal
from homegrown.supervise.link import LINE
from homegrown.supervise.policy import Policy
from homegrown.supervise.rules import Decision, Drop, Note, Over, Rules, Send

TICK = 0.1
"""Seconds between the policy's looks at the clock."""


class Controller:
    """Serves agents over TCP, a JSON object a line.

    Attributes:
        over: how the run ended, once it has.
    """

    def __init__(
        self, policy: Policy, journal: Journal, run: Path, token: str = "", status_every: float = 60.0
    ) -> None:
        self.policy = policy
        self.over: asyncio.Future[Over] = asyncio.get_running_loop().create_future()
        self._journal = journal
        self._run = run
        self._token = token
        self._status_every = status_every
        self._agents: dict[str, asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Open the server, and let time pass for the policy; the address it listens on.

        Raises:
            UserError: the address cannot be had.
        """
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=LINE)
        except OSError as error:
            raise UserError(f"--serve {host}:{port}: cannot listen there: {error.strerror}") from None
        self._ticking = asyncio.create_task(self._tick())
        self._ticking.add_done_callback(self._broken)
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    def interrupt(self, signal: int) -> None:
        """Stop the run: workers save and end."""
        self._do(self.policy.interrupt(signal, time.monotonic()))

    async def close(self) -> None:
        """Send what is still to be sent, and close the server."""
        if self._ticking is not None:
            self._ticking.cancel()
        for writer in self._agents.values():
            writer.close()
        if self._server is not None:
            self._server.close()

    async def _tick(self) -> None:
        shown = time.monotonic()
        while True:
            now = time.monotonic()
            self._do(self.policy.tick(now))
            if now - shown >= self._status_every:
                shown = now
                self._journal.show("status", self.policy.status)
            await asyncio.sleep(TICK)

    def _broken(self, task: asyncio.Task[None]) -> None:
        """A mistake in here must end the supervisor, not leave it deaf."""
        if not task.cancelled() and task.exception() is not None and not self.over.done():
            self.over.set_exception(task.exception() or RuntimeError())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        task.add_done_callback(self._broken)
        await asyncio.wait([task])

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = ""
        try:
            hello = say.report(await reader.readline())
            if not isinstance(hello, say.Hello) or not hmac.compare_digest(hello.token, self._token):
                raise say.MessageError("an agent begins with Hello and the run's token")
            name = hello.host
            if name in self._agents:  # it came back before its old connection was known to be dead
                self._agents[name].transport.abort()
            self._agents[name] = writer
            self._do(self.policy.report(name, hello, time.monotonic()))
            while line := await reader.readline():
                report = say.report(line)
                if isinstance(report, say.Beat):
                    writer.write(say.line(say.Ack()))
                self._do(self.policy.report(name, report, time.monotonic()))
        except say.MessageError as error:
            self._journal.write("refused", f"{writer.get_extra_info('peername')}: {error}")
            writer.write(say.line(say.Finish(2, f"the controller refuses this agent: {error}")))
        except OSError:  # it broke
            pass
        finally:
            writer.close()
            if self._agents.get(name) is writer:
                del self._agents[name]
                self._do(self.policy.disconnected(name))

    def _do(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Note():
                    self._journal.write(decision.event, decision.text, **decision.facts)
                    if decision.event == "fault":
                        self._keep(decision)
                case Send():
                    writer = self._agents.get(decision.host)
                    if writer is not None:
                        writer.write(say.line(decision.order))
                case Drop():
                    writer = self._agents.pop(decision.host, None)
                    if writer is not None:
                        writer.transport.abort()
                case Over() if not self.over.done():
                    self.over.set_result(decision)

    def _keep(self, fault: Note) -> None:
        """Write what is known of a fault into its folder, beside what the agents put there."""
        folder = self._run / "faults" / str(fault.facts["fault"])
        try:
            write_text(folder / "fault.json", json.dumps({"text": fault.text, **fault.facts}, indent=1) + "\n")
        except OSError as error:
            self._journal.write("evidence", f"{folder}/fault.json could not be written: {error.strerror}")


def continued(rules: Rules, journal: Path, watch: Path) -> Policy:
    """A policy that goes on where the journal of an earlier supervisor of this run ends.

    Attempts and faults are numbered on, a cordoned slot stays cordoned, and if that supervisor did not end the run,
    most of the hosts that formed its last attempt must join before there is another one.

    Args:
        rules: of the run.
        journal: of the earlier supervisor; it need not exist.
        watch: directory of flight records, which say how far this host's workers came.
    """
    events = read_journal(journal)
    formed: frozenset[str] = frozenset()
    cordoned: dict[str, bool] = {}
    for event in events:
        match event["event"]:
            case "start":
                formed = frozenset(event["hosts"])
            case "over":
                formed = frozenset()
            case "cordon" | "readmitted":
                cordoned[event["place"]] = event["event"] == "cordon"
    attempt = max((event["attempt"] for event in events if event["event"] == "start"), default=0)
    faults = max((event["fault"] for event in events if event["event"] == "fault"), default=0)
    still = [place for place, cordon in cordoned.items() if cordon]
    policy = Policy(rules, attempt=attempt, faults=faults, formed=formed, cordoned=still)
    reached = [event["reached"] for event in events if event["event"] == "fault"]
    for path in watch.glob("rank-*[0-9]") if attempt else ():
        with suppress(flight.FlightError):
            reached.append(flight.read(path).step)
    policy.progress.reached = max(reached, default=-1)
    return policy
