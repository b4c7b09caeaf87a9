"""Hosts and slots of a run: who is there, who is cordoned, and which rank sits where."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Place(NamedTuple):
    """A slot: room for one worker on a host; its index is the worker's local rank."""

    host: str
    slot: int

    def __str__(self) -> str:
        return f"{self.host}:{self.slot}"


@dataclass
class Slot:
    """Standing of a slot.

    Attributes:
        strikes: workers it lost to a signal since it was last let in.
        cordons: times it was cordoned.
        cordoned: it gets no worker until it passes a self-test.
        testing: the self-test is on.
        failed: it failed the self-test since the last start; after the next one it may try again.
    """

    strikes: int = 0
    cordons: int = 0
    cordoned: bool = False
    testing: bool = False
    failed: bool = False

    def cordon(self) -> None:
        """Use it no more, until it passes a self-test."""
        self.cordoned, self.failed, self.strikes = True, False, 0
        self.cordons += 1


@dataclass
class Host:
    """A host as the controller sees it.

    Attributes:
        address, port: where a first rank on it would listen.
        connected: its agent is there.
        heard: when it last was, on the controller's clock.
        leaving: it gets no more workers.
        busy: the attempt whose workers it may still run; 0 for none.
        slots: by index.
    """

    name: str
    address: str
    port: int
    heard: float
    connected: bool = True
    leaving: bool = False
    busy: int = 0
    slots: list[Slot] = field(default_factory=list)

    def away(self) -> None:
        """Its agent cannot be reached, and a self-test that was on will not be reported."""
        self.connected = False
        for slot in self.slots:
            slot.testing = False


@dataclass
class Roster:
    """All hosts, in the order in which they first joined."""

    hosts: dict[str, Host] = field(default_factory=dict)

    def join(self, name: str, slots: int, address: str, port: int, now: float) -> Host:
        """Take a host in, or back with the standing its slots had."""
        host = self.hosts.setdefault(name, Host(name, address, port, now))
        host.address, host.port, host.heard = address, port, now
        host.connected, host.leaving = True, False
        host.slots += [Slot() for _ in range(slots - len(host.slots))]
        del host.slots[slots:]
        return host

    def connected(self) -> list[str]:
        """Names of the hosts whose agents are there, and not about to go."""
        return [host.name for host in self.hosts.values() if host.connected and not host.leaving]

    def slot(self, place: Place) -> Slot:
        """The standing of a slot."""
        return self.hosts[place.host].slots[place.slot]

    def places(self) -> Iterator[tuple[Place, Slot]]:
        """Slots of connected hosts, in order."""
        for host in self.hosts.values():
            if host.connected and not host.leaving:
                yield from ((Place(host.name, index), slot) for index, slot in enumerate(host.slots))

    def ready(self) -> list[Place]:
        """Slots that may get a worker."""
        return [place for place, slot in self.places() if not slot.cordoned]

    def doubtful(self) -> set[Place]:
        """Slots that were cordoned once, and passed their self-test."""
        return {place for place, slot in self.places() if slot.cordons and not slot.cordoned}

    def testing(self) -> list[Place]:
        """Slots whose self-test is on."""
        return [place for place, slot in self.places() if slot.testing]

    def untested(self, cordons: int) -> list[Place]:
        """Cordoned slots that should be tested now: not out for good, and idle."""
        return [
            place
            for place, slot in self.places()
            if slot.cordoned and not slot.testing and not slot.failed and slot.cordons < cordons
        ]

    def forget_tests(self) -> None:
        """Slots that failed their self-test may try again."""
        for host in self.hosts.values():
            for slot in host.slots:
                slot.failed = False


def seat(
    ready: Sequence[Place], world: int, before: Mapping[int, Place], doubtful: Collection[Place] = ()
) -> dict[int, Place]:
    """Places for ranks 0 to world - 1 out of at least that many ready slots.

    A rank keeps the place it had, and a rank that lost it gets the first free one, on its old host if possible: who
    stays finds its files and memory again, and ranks that talk most stay together. A run of another size than before is
    seated afresh, in order. Doubtful places, which were cordoned once, come last.
    """
    sound = [place for place in ready if place not in doubtful]
    if set(before) != set(range(world)):
        return dict(enumerate((sound if len(sound) >= world else ready)[:world]))
    usable = set(ready)
    kept = {rank: place for rank, place in before.items() if place in usable}
    taken = set(kept.values())
    free = [place for place in [*sound, *(place for place in ready if place in doubtful)] if place not in taken]
    for rank in sorted(set(before) - set(kept)):
        near = (place for place in free if place.host == before[rank].host)
        kept[rank] = next(near, free[0])
        free.remove(kept[rank])
    return {rank: kept[rank] for rank in range(world)}
