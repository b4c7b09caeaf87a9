"""Whether another attempt may start, and with how many workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from homegrown.supervise.messages import Seat, Start
from homegrown.supervise.roster import Place, Roster
from homegrown.supervise.rules import Rules
from homegrown.supervise.wording import listed, plural


@dataclass(frozen=True)
class Obstacle:
    """What a start waits for, in words; `final` if it would wait for ever."""

    text: str
    final: bool = False


@dataclass
class Progress:
    """How far the run came, and how often it was restarted in vain.

    Attributes:
        reached: the furthest step begun in any attempt; -1 before the first.
        fruitless: restarts in a row without a step beyond it.
    """

    reached: int = -1
    fruitless: int = 0

    def restart(self, begun: int) -> None:
        """An attempt ended in a fault after it had begun step `begun`."""
        self.fruitless = 1 if begun > self.reached else self.fruitless + 1
        self.reached = max(self.reached, begun)

    def pause(self, rules: Rules) -> float:
        """Seconds to wait before the next attempt."""
        return min(rules.backoff * 2.0 ** (self.fruitless - 1), rules.backoff_limit)


def size(rules: Rules, slots: int) -> int:
    """The most workers, of those the rules allow, that so many slots can take; 0 if that is too few."""
    sizes = range(min(slots, rules.workers), rules.fewest - 1, -1)
    return next((size for size in sizes if rules.fits(size)), 0)


def quorum(rules: Rules, formed: frozenset[str], there: Iterable[str]) -> bool:
    """Whether enough of the hosts that formed the last attempt are there to form another.

    Most of them, or half of them with the controller's own: two such parts cannot exist.
    """
    present = formed.intersection(there)
    return 2 * len(present) > len(formed) or (2 * len(present) == len(formed) and rules.home in present)


def obstacle(
    rules: Rules, roster: Roster, formed: frozenset[str], now: float, since: float, not_before: float
) -> Obstacle | None:
    """What stands in the way of a start; None if nothing does.

    Args:
        rules: of the run.
        roster: who is there.
        formed: hosts of the last attempt; empty before the first.
        now, since: the time, and when the waiting began.
        not_before: when the back-off is over.
    """
    there = roster.connected()
    if not formed and len(there) < rules.hosts:
        return Obstacle(f"{plural(rules.hosts - len(there), 'more host')} to join")
    if formed and not quorum(rules, formed, there):
        return Obstacle(f"a majority of {listed(sorted(formed))}; there: {listed(there) or 'none'}")
    if now < not_before:
        return Obstacle(f"{not_before - since:g} s of back-off")
    ready = len(roster.ready())
    if ready >= rules.workers and rules.fits(rules.workers):
        return None
    if roster.testing():
        return Obstacle(f"the self-test of {listed(str(place) for place in roster.testing())}")
    missing = sorted(formed.difference(there))
    if missing and now < since + rules.patience:
        return Obstacle(f"{listed(missing)} to come back, {rules.patience:g} s at most")
    if size(rules, ready):
        return None
    alone = rules.hosts == 1 and not missing
    return Obstacle(f"slots: {ready} can be used, and the run needs {rules.fewest}", final=alone)


def orders(attempt: int, seats: Mapping[int, Place], roster: Roster) -> dict[str, Start]:
    """What each host is to start; the workers meet on the host of rank 0."""
    by_host: dict[str, list[Seat]] = {}
    for rank, place in seats.items():
        by_host.setdefault(place.host, []).append(Seat(rank, place.slot))
    first = roster.hosts[seats[0].host]
    return {
        name: Start(attempt, len(seats), first.address, first.port, node, mine)
        for node, (name, mine) in enumerate(by_host.items())
    }
