"""The state machine of a supervised run: what happened goes in, decisions come out.

    Waiting --(enough slots, a quorum, back-off over)--> Attempt --(fault)--> Stopping --(no worker lives)--> Waiting
                                                            '--(all workers done, or asked to stop)--> Over

It reads no clock, opens no file and starts no process: time comes with every event, and the same events always give the
same decisions. The controller carries them out.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Iterable

from homegrown.supervise import messages as say
from homegrown.supervise.attempt import Attempt, Fault
from homegrown.supervise.diagnosis import Slow
from homegrown.supervise.roster import Host, Place, Roster, seat
from homegrown.supervise.rules import Decision, Drop, Note, Over, Rules, Send
from homegrown.supervise.starting import Progress, obstacle, orders, size
from homegrown.supervise.states import State, Stopping, Waiting, describe, stopped
from homegrown.supervise.wording import listed, plural

FENCE_MARGIN = 1.0
"""Seconds beyond the lease after which the workers of a silent host count as dead: its agent needs time to kill."""
SLEPT = 2.0
"""A pause of this many seconds between two ticks means that the controller itself was asleep, not the hosts."""
CORDONING = {"hang", "stall", "slow", "corrupt"}
"""Kinds of fault that cordon a culprit's slot at once; `killed` does so when it is repeated, others never."""
NOWHERE = -1
"""Slot of a rank that lost its place and should get another on the same host."""


class Policy:
    """Decides. Every public method takes what happened and the time, and returns what is to be done about it.

    Attributes:
        attempt: number of the last attempt.
        faults: number of the last fault.
        formed: hosts that formed the last attempt.
        state: where the run stands; `Over` at the end.

    A supervisor that continues another one's run gives it that one's numbers, hosts and cordoned slots (`host:slot`).
    """

    def __init__(
        self, rules: Rules, *,
        attempt: int = 0, faults: int = 0, formed: Iterable[str] = (), cordoned: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.rules = rules
        self.attempt = attempt
        self.faults = faults
        self.formed = frozenset(formed)
        self.state: State = Waiting()
        self.roster = Roster()
        self.progress = Progress()
        self._cordoned = set(cordoned)
        self._seats: dict[int, Place] = {}
        self._training = False
        self._ticked: float | None = None
        self._out: list[Decision] = []

    @property
    def status(self) -> str:
        """Where the run stands, in a line."""
        return describe(self.state, self.attempt, self.roster, self.progress, self.rules)

    def report(self, host: str, report: say.Report, now: float) -> list[Decision]:
        """An agent said something; its first word is `Hello`."""
        if isinstance(report, say.Hello):
            self._hello(report, now)
        elif host in self.roster.hosts:
            self.roster.hosts[host].heard = now
            match report:
                case say.Beat():
                    self._beat(report)
                case say.Exited():
                    self._exited(report, now)
                case say.Idle():
                    self._idle(self.roster.hosts[host], report)
                case say.Tested():
                    self._tested(Place(host, report.slot), report)
                case say.Leaving():
                    self._leaves(self.roster.hosts[host], now)
        return self._decided()

    def disconnected(self, host: str) -> list[Decision]:
        """The connection to an agent broke. It may come back, and its workers may go on, until its lease is over."""
        self.roster.hosts[host].away()
        return self._decided()

    def interrupt(self, signal: int, now: float) -> list[Decision]:
        """The run is to stop: workers save and end; at the second time they are killed."""
        over = Over(128 + signal, f"stopped by {signals.Signals(signal).name}")
        state = self.state
        if isinstance(state, Waiting):
            self._end(over)
        elif isinstance(state, Stopping):
            state.final = state.final or over
        elif isinstance(state, Over):
            pass
        elif not state.signal:
            self._forward(state, signal, now, over.reason)
        elif state.again:  # workers save already, and a second signal would keep them from it
            state.again = False
            self._note("signal", f"{over.reason}: workers save and end already", signal=signal)
        else:
            state.deadline = now
        return self._decided()

    def tick(self, now: float) -> list[Decision]:
        """Time passes; to be called several times a second."""
        if self._ticked is not None and now - self._ticked > SLEPT:
            for host in self.roster.hosts.values():
                host.heard += now - self._ticked
        self._ticked = now
        self._look_for_lost_hosts(now)
        self._part_with_leaving()
        if isinstance(self.state, Attempt):
            self._watch(self.state, now)
        if isinstance(self.state, Stopping) and not any(host.busy for host in self.roster.hosts.values()):
            if self.state.final is not None:
                self._end(self.state.final)
            else:
                self.state = Waiting(now, now + self.state.pause)
        if isinstance(self.state, Waiting):
            self._wait(self.state, now)
        return self._decided()

    # Hosts

    def _hello(self, hello: say.Hello, now: float) -> None:
        again = hello.host in self.roster.hosts
        host = self.roster.join(hello.host, hello.slots, hello.address, hello.port, now)
        left, host.busy = host.busy, hello.attempt
        self._cordon_as_before(host)
        text = f"{host.name} joined{' again' if again else ''} with {plural(hello.slots, 'slot')}"
        self._note("joined", text, host=host.name, slots=hello.slots)
        self._send([host.name], say.Welcome())
        state = self.state
        belongs = isinstance(state, Attempt) and hello.attempt == self.attempt
        if isinstance(state, Over):
            self._send([host.name], say.Finish(state.status, state.reason))
        elif hello.attempt and not belongs:
            self._send([host.name], say.Stop(hello.attempt))
        if isinstance(state, Attempt) and left == self.attempt and not belongs:
            self._fault(state, Fault("host lost", (), f"{host.name} lost its workers"))

    def _cordon_as_before(self, host: Host) -> None:
        for index, slot in enumerate(host.slots):
            name = str(Place(host.name, index))
            if name in self._cordoned:
                self._cordoned.remove(name)
                slot.cordon()

    def _leaves(self, host: Host, now: float) -> None:
        host.leaving = True
        self._note("leaves", f"{host.name} leaves the run", host=host.name)
        if isinstance(self.state, Attempt) and host.busy and not self.state.signal:
            self._forward(self.state, signals.SIGTERM, now, f"{host.name} leaves")
            self.state.again = True

    def _part_with_leaving(self) -> None:
        for host in self.roster.hosts.values():
            if host.leaving and host.connected and not host.busy:
                self._send([host.name], say.Finish(0, f"{host.name} has left the run"))
                host.away()

    def _gone(self, name: str, how: str) -> None:
        """A host whose workers are dead for certain."""
        host = self.roster.hosts[name]
        attempt, host.busy = host.busy, 0
        host.away()
        self._out.append(Drop(name))
        self._note("host lost", f"{name} {how}", host=name)
        if isinstance(self.state, Attempt) and attempt == self.attempt:
            self._fault(self.state, Fault("host lost", (), f"host {name} {how}"))

    def _look_for_lost_hosts(self, now: float) -> None:
        limit = self.rules.lease + FENCE_MARGIN
        for host in self.roster.hosts.values():
            if now - host.heard > limit and (host.connected or host.busy):
                self._gone(host.name, f"was not heard of for {limit:g} s, by which its agent has ended its workers")

    def _idle(self, host: Host, idle: say.Idle) -> None:
        host.port = idle.port
        if host.busy == idle.attempt:
            host.busy = 0

    # An attempt

    def _beat(self, beat: say.Beat) -> None:
        attempt = self._of(beat.attempt)
        if attempt is None:
            return
        slow = attempt.beat(beat)
        if not self._training and attempt.first is not None:
            self._trains(attempt.first)
        for one in slow:
            if self.state is attempt:
                self._slow(attempt, one)

    def _trains(self, first: int) -> None:
        self._training = True
        reached = self.progress.reached
        lost = max(0, reached - first)
        again = f"; {plural(lost, 'step')} done again" if reached >= 0 else ""
        text = f"attempt {self.attempt} trains from step {first}{again}"
        self._note("training", text, attempt=self.attempt, step=first, lost_steps=lost)

    def _exited(self, exited: say.Exited, now: float) -> None:
        attempt = self._of(exited.attempt)
        if attempt is None or exited.rank in attempt.exits:
            return
        attempt.exited(exited, now)
        if not attempt.ended:
            return
        if not attempt.failed:
            self._stop(0, False, Stopping(final=Over(0, "all workers are done")))
        elif attempt.signal:
            self._saved(attempt)

    def _forward(self, attempt: Attempt, signal: int, now: float, why: str) -> None:
        """Let the workers save and end."""
        attempt.signal, attempt.deadline = signal, now + self.rules.grace
        self._note("signal", f"{why}: workers save and end, within {self.rules.grace:g} s", signal=signal)
        self._send(self._busy(), say.Forward(signal))

    def _saved(self, attempt: Attempt) -> None:
        self.progress.reached = max(self.progress.reached, attempt.begun)
        self._stop(0, False, Stopping() if attempt.again else Stopping(final=stopped(attempt)))

    def _watch(self, attempt: Attempt, now: float) -> None:
        if attempt.signal:
            if now >= attempt.deadline:
                self._saved(attempt)
            return
        fault = attempt.fault(now)
        if fault is not None:
            self._fault(attempt, fault)

    def _slow(self, attempt: Attempt, slow: Slow) -> None:
        place = attempt.seats[slow.rank]
        steps = plural(self.rules.slow_steps, "step")
        text = f"rank {slow.rank} ({place}) takes {slow.factor:.1f} times as long as the others, for {steps} now"
        self._note("slow", text, rank=slow.rank, place=str(place), factor=round(slow.factor, 3), step=slow.step)
        if not 0 < self.rules.cordon_slow <= slow.factor:
            return
        if len(self.roster.ready()) > len(attempt.seats) or size(self.rules, len(attempt.seats) - 1):
            self._fault(attempt, Fault("slow", (slow.rank,), text))
        else:
            self._note("kept", f"rank {slow.rank} stays: there is no spare slot, and the run needs them all")

    def _fault(self, attempt: Attempt, fault: Fault) -> None:
        """End the attempt, cordon the slots of culprits, and see whether there may be another."""
        self.faults += 1
        self.progress.restart(attempt.begun)
        count, most = self.progress.fruitless, self.rules.max_restarts
        final, budget = None, f" (restart {count} of {most} without progress)"
        if fault.kind == "refused":
            final, budget = Over(2, f"a restart would end alike: {fault.text}"), ""
        elif count > most:
            final, budget = Over(1, f"{plural(most, 'restart')} in a row brought no progress; last: {fault.text}"), ""
        self._note(
            "fault", f"fault {self.faults} in attempt {self.attempt}: {fault.text}{budget}",
            fault=self.faults, kind=fault.kind, attempt=self.attempt, culprits=list(fault.culprits),
            places=[str(attempt.seats[rank]) for rank in fault.culprits], reached=attempt.begun, restart=count,
            **fault.facts,
        )  # fmt: skip
        for rank in fault.culprits:
            self._punish(attempt.seats[rank], fault.kind)
        pause = self.progress.pause(self.rules)
        self._stop(self.faults, fault.kind in ("hang", "stall"), Stopping(pause, final))

    def _punish(self, place: Place, kind: str) -> None:
        slot = self.roster.slot(place)
        slot.strikes += kind == "killed"
        if kind in CORDONING or (kind == "killed" and slot.strikes >= self.rules.strikes):
            slot.cordon()
            # Whoever sat there moves, even if the slot passes its self-test in time: a sound one is better.
            self._seats = {
                rank: seat._replace(slot=NOWHERE) if seat == place else seat for rank, seat in self._seats.items()
            }
            last = " for good" if slot.cordons >= self.rules.cordons else ""
            self._note("cordon", f"slot {place} is cordoned{last}: {kind}", place=str(place), reason=kind)

    def _stop(self, fault: int, stacks: bool, state: Stopping) -> None:
        self._send(self._busy(), say.Stop(self.attempt, fault, stacks))
        self.state = state

    # Another attempt

    def _wait(self, state: Waiting, now: float) -> None:
        for place in self.roster.untested(self.rules.cordons):
            self.roster.slot(place).testing = True
            self._send([place.host], say.Test(place.slot))
        found = obstacle(self.rules, self.roster, self.formed, now, state.since, state.not_before)
        if found is None:
            self._start()
        elif found.final:
            self._end(Over(1, found.text))
        elif found.text != state.why:
            state.why = found.text
            self._note("waiting", f"waits for {found.text}")

    def _tested(self, place: Place, tested: say.Tested) -> None:
        slot = self.roster.slot(place)
        slot.testing = False
        if tested.passed:
            slot.cordoned = False
            self._note("readmitted", f"slot {place} passed its self-test and may be used again", place=str(place))
        else:
            slot.failed = True
            said = f": {tested.said}" if tested.said else ""
            self._note("self-test", f"slot {place} failed its self-test and stays cordoned{said}", place=str(place))

    def _start(self) -> None:
        ready = self.roster.ready()
        world = size(self.rules, len(ready))
        self.attempt += 1
        self.formed = frozenset(self.roster.connected())
        self._seats = seats = seat(ready, world, self._seats, self.roster.doubtful())
        self._training = False
        self.roster.forget_tests()
        self.state = Attempt(seats, self.rules)
        for name, start in orders(self.attempt, seats, self.roster).items():
            self.roster.hosts[name].busy = self.attempt
            self._send([name], start)
        nodes = dict.fromkeys(place.host for place in seats.values())
        fewer = f", fewer than the {self.rules.workers} wanted" if world < self.rules.workers else ""
        self._note(
            "start", f"attempt {self.attempt}: {plural(world, 'worker')} on {listed(nodes)}{fewer}",
            attempt=self.attempt, world=world, hosts=sorted(self.formed),
            seats={str(rank): str(place) for rank, place in seats.items()},
        )  # fmt: skip

    # Small things

    def _of(self, number: int) -> Attempt | None:
        """The attempt that is on, if it has this number."""
        return self.state if isinstance(self.state, Attempt) and number == self.attempt else None

    def _busy(self) -> list[str]:
        return [host.name for host in self.roster.hosts.values() if host.connected and host.busy == self.attempt]

    def _send(self, hosts: Iterable[str], order: say.Order) -> None:
        self._out += [Send(host, order) for host in hosts]

    def _note(self, event: str, text: str, **facts: object) -> None:
        self._out.append(Note(event, text, facts))

    def _end(self, over: Over) -> None:
        self.state = over
        self._note("over", over.reason, status=over.status)
        self._send(self.roster.connected(), say.Finish(over.status, over.reason))
        self._out.append(over)

    def _decided(self) -> list[Decision]:
        decisions, self._out = self._out, []
        return decisions
