"""How much of the time ends up in the model: checkpoints, their best interval, and what interruptions cost.

Three factors make the share: the time that is not spent waiting for repairs, of it the time that is not spent
restarting, and of that the work that is not lost or spent on snapshots. All of them are exact for Poisson failures,
with three simplifications: nodes and pods that both run short (see `Failures.available`), background copies that are
timed by the clock of the running job, and copies into a peer's memory that delay as if no pod were lost meanwhile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster
from homegrown.plan.failures import Failures
from homegrown.plan.quantity import EXPECTED, World
from homegrown.plan.upkeep import Upkeep, default_upkeep

_DIGITS = 1e-12
"""Relative change at which Newton's iteration has converged."""
_WHOLE = 1e-9
"""Of a step: less than that over a whole number is rounding."""
_MOST = 500.0
"""Largest exponent: what it leaves of the time is nothing, and still a float when it is divided by."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How a run is saved.

    Attributes:
        pause: seconds that training stands still for a snapshot.
        drain: seconds after it until the snapshot is on lasting storage; 0 if training stands still until then.
        memory: a peer keeps a copy in its memory, from which all but the loss of a pod is recovered.
        copy: seconds after the pause until the peer has it.
    """

    pause: float
    drain: float = 0.0
    memory: bool = False
    copy: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """What becomes of the time. The shares add up to 1.

    Attributes:
        share: work that ends up in the model.
        paused: snapshots of that work. redone: work (and its snapshots) that an interruption undid.
        restarting: from interruptions to the next step. waiting: for repairs, for want of spares.
        interval: seconds of work between snapshots.
        every: one in so many snapshots goes to lasting storage.
        mttf: seconds from one interruption to the next.
    """

    share: float
    paused: float
    redone: float
    restarting: float
    waiting: float
    interval: float
    every: int
    mttf: float

    @property
    def running(self) -> float:
        """Share of the time in which steps run, whether their work is kept or not."""
        return self.share + self.redone


def saving_of(
    cluster: Cluster,
    state: float,
    world: World = EXPECTED,
    *,
    upkeep: Upkeep | None = None,
    memory: bool = True,
    asynchronous: bool = True,
) -> Saving:
    """How a cluster saves `state` bytes a device.

    Training stands still while they are copied to the host and all ranks agree that they have done so. The rest, to
    storage and into the memory of a peer in the same pod, goes on behind the next steps; with `asynchronous` off,
    training waits for the storage as well.
    """
    if not (0 <= state < math.inf):
        raise ConfigError(f"state = {state:g}: must be the bytes a device that a checkpoint holds, not negative")
    here = f"cluster.{cluster.name}"
    pause = (upkeep or default_upkeep()).at(world).pause
    pause += state / world.of(f"{here}.host_bandwidth", cluster.host_bandwidth)
    drain = state / world.of(f"{here}.storage", cluster.storage)
    if not asynchronous:
        return Saving(pause=pause + drain)
    if not memory:
        return Saving(pause=pause, drain=drain)
    tier = next((tier for tier in cluster.tiers if not tier.size or tier.size > cluster.node), cluster.tiers[-1])
    peer = world.of(f"{here}.{tier.name}.bandwidth", tier.bandwidth)
    return Saving(pause=pause, drain=drain, memory=True, copy=state / peer)


def young(pause: float, mttf: float) -> float:
    """Seconds of work between snapshots, to first order: sqrt(2 w M). Young (1974), doi 10.1145/361147.361115."""
    return math.sqrt(2 * pause * mttf)


def daly(pause: float, mttf: float) -> float:
    """The same to higher order. Daly (2006), doi 10.1016/j.future.2004.11.016."""
    if pause >= 2 * mttf:
        return mttf
    ratio = pause / (2 * mttf)
    return young(pause, mttf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - pause


def best(pause: float, mttf: float) -> float:
    """The same exactly: the x = tau / M with (1 - x) exp(x + w / M) = 1, which Daly's series approximates.

    Newton's iteration on x + w/M + log(1 - x), which is concave and is begun on the far side of its root.
    """
    short = pause / mttf
    if not short:
        return 0.0
    x = min(math.sqrt(2 * short), -math.expm1(-1 - short))
    while True:
        step = (x + short + math.log1p(-x)) * (1 - x) / x
        x += step
        if abs(step) <= _DIGITS * x:
            return x * mttf


def meta_ettr(mttf: float, restart: float, interval: float, pause: float) -> float:
    """Effective training time ratio, (1 - (u + D/2) / M) / (1 + w/D): arXiv 2410.21680, section on ETTR.

    An interruption during a restart costs a whole restart and half an interval there, which never happens; where
    restarts are not short against the time between interruptions it is too low, and below 0 in the end.
    """
    return (1 - (restart + interval / 2) / mttf) / (1 + pause / interval)


def goodput(failures: Failures, saving: Saving, *, step: float = 0.0, interval: float | None = None) -> Goodput:
    """What becomes of the time of a run.

    Args:
        failures, saving: of the run.
        step: seconds of an optimizer step; snapshots come between whole ones.
        interval: seconds of work between snapshots; the best if not given, but never so short that a copy in the
            background would not be finished when the next begins.

    Raises:
        ConfigError: `interval` is not positive, or not given where none is best, because nothing interrupts the run or
            snapshots take no time.
    """
    running, ordinary, pods = _episodes(failures)
    if interval is None:
        interval = _interval(saving, 1 / (ordinary + pods) if ordinary + pods else math.inf, step)
    if not 0 < interval < math.inf:
        raise ConfigError(f"interval = {interval:g} s: must be positive and finite")
    pace = interval + saving.pause
    every = max(1, math.ceil(saving.drain / pace)) if saving.memory else 1
    kept = interval / pace * _kept(ordinary, pods, saving, pace, every)
    available = failures.available
    share = available * running * kept
    paused = share * saving.pause / interval
    return Goodput(
        share=share,
        paused=paused,
        redone=max(available * running - share - paused, 0.0),
        restarting=available * (1 - running),
        waiting=1 - available,
        interval=interval,
        every=every,
        mttf=failures.mttf,
    )


def _episodes(failures: Failures) -> tuple[float, float, float]:
    """Share of the time not waiting in which the job runs; its ordinary and its pod-losing episodes a second of that.

    An episode begins with an interruption of the running job and ends when it runs again; it loses a pod if any of the
    interruptions in it does. A restart of R seconds against interruptions at rate r takes (exp(r R) - 1) / r on
    average, for one that strikes during a restart begins it anew (Daly 2006).
    """
    a, b, rate = failures.ordinary, failures.pods, failures.rate
    if not rate:
        return 1.0, 0.0, 0.0
    struck = -math.expm1(-rate * failures.restart)  # an ordinary restart is interrupted
    again = (b + a * math.exp(-min(rate * failures.restart, _MOST))) / rate  # and not begun again as such
    heavy = math.expm1(min(rate * failures.pod_restart, _MOST)) / rate
    light = struck / rate * (1 + b * heavy) / again
    turns = struck * b / rate / again  # an ordinary episode turns into one that loses a pod
    return 1 / (1 + a * light + b * heavy), a * (1 - turns), b + a * turns


def _interval(saving: Saving, mttf: float, step: float) -> float:
    """The best interval that background copies and whole steps allow."""
    if math.isinf(mttf):
        raise ConfigError("interval: nothing interrupts this run, so no interval is best; give one")
    behind = saving.copy if saving.memory else saving.drain
    interval = max(best(saving.pause, mttf), behind - saving.pause, step)
    if not interval:
        raise ConfigError("interval: snapshots take no time here, so that none is too short; give one, or `step`")
    return math.ceil(interval / step - _WHOLE) * step if step else interval


def _kept(ordinary: float, pods: float, saving: Saving, pace: float, every: int) -> float:
    """Share of the running time that is not undone, snapshots included.

    Renewal theory. Without copies in memory every episode falls back to what storage has: of the 1/r seconds from one
    to the next, a pace of s seconds is kept as often as paces and the drain after them are over before it comes, which
    is exp(-r L) / (exp(r s) - 1) times on average. With them only an episode that loses a pod falls back so far, and
    what it can undo is a period of `every` paces, each done again until no ordinary episode strikes; `hit` is the
    chance that a pod is lost meanwhile.
    """
    if not saving.memory:
        return _paces((ordinary + pods) * pace) * math.exp(-(ordinary + pods) * saving.drain)
    lag = math.exp(-ordinary * saving.copy)
    if not pods:
        return _paces(ordinary * pace) * lag
    rate = ordinary + pods
    struck = -math.expm1(-rate * pace)
    hit = struck * pods / rate / (1 - struck * ordinary / rate)
    undone = -every * math.log1p(-min(hit, 1 - 1e-16))
    return pods * every * pace / math.expm1(min(undone, _MOST)) * math.exp(-pods * saving.drain) * lag


def _paces(failures: float) -> float:
    """Share of the time in paces that no failure undoes, if so many strike one on average."""
    return failures / math.expm1(min(failures, _MOST)) if failures else 1.0
