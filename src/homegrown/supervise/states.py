"""Where a supervised run can stand, and what is said about it."""

from __future__ import annotations

import math
import signal as signals
from dataclasses import dataclass

from homegrown.supervise.attempt import Attempt
from homegrown.supervise.roster import Roster
from homegrown.supervise.rules import Over, Rules
from homegrown.supervise.starting import Progress
from homegrown.supervise.wording import listed, plural


@dataclass
class Waiting:
    """No worker lives. Nothing starts before `not_before`; `why` is what was last said about it."""

    since: float = -math.inf
    not_before: float = -math.inf
    why: str = ""


@dataclass
class Stopping:
    """The workers of an attempt are being killed; then the run pauses for some seconds, or ends with `final`."""

    pause: float = 0.0
    final: Over | None = None


State = Waiting | Attempt | Stopping | Over


def describe(state: State, number: int, roster: Roster, progress: Progress, rules: Rules) -> str:
    """Where the run stands, what it waits for and what is left of its budget, in a line.

    Args:
        state: of the run.
        number: of its last attempt.
        roster, progress, rules: of the run.
    """
    budget = f"restarts without progress: {progress.fruitless} of {rules.max_restarts}"
    if isinstance(state, Waiting):
        return f"no attempt is on, waits for {state.why}; {budget}"
    if isinstance(state, Stopping):
        busy = [host.name for host in roster.hosts.values() if host.busy]
        return f"attempt {number} is being stopped, waits for the workers of {listed(busy)} to end; {budget}"
    if isinstance(state, Over):
        return state.reason
    where = f"in step {state.begun}" if state.begun >= 0 else "before its first step"
    return f"attempt {number} is {where} with {plural(len(state.seats), 'worker')}; {budget}"


def stopped(attempt: Attempt) -> Over:
    """How a run ends whose workers were asked to save and end."""
    left = len(attempt.seats) - len(attempt.exits)
    killed = f", {plural(left, 'worker')} killed" if left else ""
    name = signals.Signals(attempt.signal).name
    return Over(128 + attempt.signal, f"stopped by {name} in step {attempt.begun}{killed}")
