"""What agents and the controller say to each other: one JSON object a line.

An agent sends reports and obeys orders; it runs on each host. The controller holds the truth about a run: which
incarnation (attempt) is on, and who belongs to it.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from homegrown.config.errors import UserError

T = TypeVar("T")


class MessageError(UserError):
    """A line that is none of these messages."""


class Waiting(msgspec.Struct, frozen=True):
    """A rank inside a collective: which one it is, its members as `ranks_text` writes them, seconds since it came."""

    op: str
    group: str
    ranks: str
    sequence: int
    seconds: float


class Digest(msgspec.Struct, frozen=True):
    """What an agent knows of a worker at this moment.

    Attributes:
        rank: whose.
        age: seconds since its flight record last moved, or since its start.
        state: the kernel's letter for the process: R, S, D, T (stopped), Z; X when it is gone.
        phase, first, step: of its flight record; `start` and -1 while there is none.
        waiting: the collective it is in, once its record has not moved for a while.
        entered: collectives entered by group; given together with `waiting`.
        times: steps that ended since the last digest: number, seconds, seconds inside collectives.
    """

    rank: int
    age: float = 0.0
    state: str = "R"
    phase: str = "start"
    first: int = -1
    step: int = -1
    waiting: Waiting | None = None
    entered: dict[str, int] = {}
    times: list[tuple[int, float, float]] = []


class Blame(msgspec.Struct, frozen=True):
    """A verdict that a worker left: the faulty rank and why."""

    rank: int
    what: str


class Seat(msgspec.Struct, frozen=True):
    """A rank's place on a host."""

    rank: int
    slot: int


# Reports: agent to controller


class Hello(msgspec.Struct, frozen=True, tag=True):
    """An agent is there, or there again.

    Attributes:
        host: its name, unique in the run.
        slots: workers it has room for, spares included.
        address, port: where a first rank on this host would listen.
        attempt: the incarnation whose workers it runs; 0 for none.
        token: shared secret.
    """

    host: str
    slots: int
    address: str
    port: int
    attempt: int = 0
    token: str = ""


class Beat(msgspec.Struct, frozen=True, tag=True):
    """An agent lives, and so do these workers of an attempt."""

    attempt: int
    digests: list[Digest] = []


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A worker ended.

    Attributes:
        code: its exit status; -N when signal N killed it.
        digest: what its record said at the end.
        said: the last line of its log.
        blames: verdicts that were left in this attempt.
    """

    attempt: int
    rank: int
    code: int
    digest: Digest
    said: str = ""
    blames: list[Blame] = []


class Idle(msgspec.Struct, frozen=True, tag=True):
    """No worker of `attempt` is left on this host; `port` is free for the next one."""

    attempt: int
    port: int


class Tested(msgspec.Struct, frozen=True, tag=True):
    """The self-test of a slot is over."""

    slot: int
    passed: bool
    said: str = ""


class Leaving(msgspec.Struct, frozen=True, tag=True):
    """The agent was asked to go: its host is to be left out of the run, which saves first."""


# Orders: controller to agent


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Hello was understood."""


class Ack(msgspec.Struct, frozen=True, tag=True):
    """A beat was heard; the lease runs anew from when it was sent."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """Start workers.

    Attributes:
        attempt: the incarnation, higher than any before.
        world: workers in all.
        address, port: where rank 0 listens.
        node: index of this host in the attempt.
        seats: the ranks of this host.
    """

    attempt: int
    world: int
    address: str
    port: int
    node: int
    seats: list[Seat]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the workers of an attempt now; first write what they were doing into the folder of `fault`, if not 0."""

    attempt: int
    fault: int = 0
    stacks: bool = False


class Forward(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to the workers: they save and end."""

    signal: int


class Test(msgspec.Struct, frozen=True, tag=True):
    """Run the self-test on a slot."""

    slot: int


class Finish(msgspec.Struct, frozen=True, tag=True):
    """The run is over: end, with this exit status."""

    status: int
    reason: str


Report = Hello | Beat | Exited | Idle | Tested | Leaving
Order = Welcome | Ack | Start | Stop | Forward | Test | Finish

_reports: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


def line(message: Report | Order) -> bytes:
    """A message as a line."""
    return msgspec.json.encode(message) + b"\n"


def report(text: bytes) -> Report:
    """The report in a line; raises `MessageError`."""
    return _decode(_reports, text)


def order(text: bytes) -> Order:
    """The order in a line; raises `MessageError`."""
    return _decode(_orders, text)


def _decode(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    try:
        return decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise MessageError(f"not a message of this version of homegrown: {error}") from None
