"""The drill: one fault after another against a small real run, and a table of what became of it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from homegrown.supervise.agent import free_port
from homegrown.supervise.faults import FAULTS, Disturbance
from homegrown.supervise.network import Namespaces, Relay, namespaces_missing
from homegrown.supervise.stage import AgentCommand, Network, Stage, StageError, losses

BASE = ["--backoff", "0.1", "--lease", "3", "--patience", "60", "--max-restarts", "5"]
"""Flags of every run of the drill, which has no time to lose."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is drilled.

    Attributes:
        program: flags of `homegrown supervise` that say what the workers run, for a run in a directory.
        workers, steps: of each run.
        flags: further flags of the supervisor.
        out: directory of the runs.
        seed: decides the moments and the victims.
    """

    program: Callable[[Path], Sequence[str]]
    workers: int
    steps: int
    flags: Sequence[str]
    out: Path
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """A line of the table. Times are seconds since the fault; None where it did not come to that.

    Attributes:
        fault: in words.
        detected: until the supervisor noted it.
        lost: steps that had been done and were done again.
        resumed: until all workers trained again.
        same: the losses and gradient norms of all steps have the bits of the undisturbed run.
        remark: why it was left out, or what went wrong.
    """

    fault: str
    detected: float | None = None
    lost: int | None = None
    resumed: float | None = None
    same: bool | None = None
    remark: str = ""


def drill(plan: Plan, names: Sequence[str], show: Callable[[str], None]) -> list[Row]:
    """Run undisturbed once, then once for each of the named faults.

    Raises:
        StageError: the undisturbed run did not end well.
    """
    show("undisturbed run")
    straight = plan.out / "undisturbed"
    with stage(plan, straight) as undisturbed:
        status = undisturbed.finish()
    if status:
        raise StageError(f"{straight}: the undisturbed run ended with status {status}; see its logs/")
    rows = []
    for name in names:
        show(FAULTS[name].what)
        rows.append(disturb(plan, name, straight))
    return rows


def disturb(plan: Plan, name: str, straight: Path) -> Row:
    """Run once with a fault, and compare with the undisturbed run at `straight`."""
    fault = FAULTS[name]
    reason = left_out(plan, fault)
    if reason:
        return Row(fault.what, remark=f"left out: {reason}")
    run = plan.out / name
    try:
        with stage(plan, run, fault) as disturbed:
            began = fault.inject(disturbed, random.Random(f"{plan.seed} {name}"))
            detected = disturbed.event(fault.seen, began)
            resumed = disturbed.event("training", detected["stamp"])
            status = disturbed.finish()
            ended = [after["stamp"] - began for after in (detected, resumed)]
    except StageError as error:
        return Row(fault.what, same=False, remark=str(error))
    same = status == 0 and losses(run) == losses(straight)
    remark = "" if same else (f"the run ended with status {status}" if status else "other losses")
    return Row(fault.what, ended[0], resumed["lost_steps"], ended[1], same, remark)


def left_out(plan: Plan, fault: Disturbance) -> str:
    """Why a fault cannot be drilled here; empty if it can."""
    if plan.workers < fault.workers:
        return f"needs {fault.workers} workers"
    if fault.network != "none" and plan.workers % 2:
        return "needs an even number of workers, for two hosts"
    return namespaces_missing() if fault.network == "namespaces" else ""


@contextmanager
def stage(plan: Plan, run: Path, fault: Disturbance | None = None) -> Iterator[Stage]:
    """A fresh run in a directory, on the hosts that a fault needs."""
    if run.exists():
        shutil.rmtree(run)
    network = fault.network if fault else "none"
    flags = [*plan.program(run), *BASE, *plan.flags, *(fault.flags if fault else ())]
    with ExitStack() as stack:
        joined: Network | None = None
        agents = [AgentCommand(["--workers", str(plan.workers)])]
        if network == "relay":
            port = free_port()
            joined = relay = stack.enter_context(Relay("127.0.0.1", port))
            agents = two_hosts(plan.workers, f"127.0.0.1:{port}", f"127.0.0.1:{relay.port}")
        elif network == "namespaces":
            joined = hosts = stack.enter_context(Namespaces(2))
            leading = f"{hosts.address(0)}:29400"
            agents = two_hosts(plan.workers, leading, leading, hosts.prefix(0), hosts.prefix(1))
        yield stack.enter_context(
            Stage(run, workers=plan.workers, steps=plan.steps, flags=flags, agents=agents, network=joined)
        )


def two_hosts(
    workers: int, served: str, reached: str, first: Sequence[str] = (), second: Sequence[str] = ()
) -> list[AgentCommand]:
    """Two agents with half of the workers each: one leads, the other joins it at the address where it reaches it.

    Args:
        workers: of both together.
        served, reached: HOST:PORT of the controller, for the one and for the other.
        first, second: what their command lines begin with.
    """
    half = ["--workers", str(workers // 2)]
    return [
        AgentCommand([*half, "--hosts", "2", "--serve", served], first),
        AgentCommand([*half, "--join", reached], second),
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The table, as Markdown."""
    lines = [
        "| fault | detected after | lost steps | resumed after | same bits as undisturbed |",
        "|---|--:|--:|--:|---|",
    ]
    for row in rows:
        cells = [_seconds(row.detected), "-" if row.lost is None else str(row.lost), _seconds(row.resumed)]
        verdict = row.remark if row.same is None else ("yes" if row.same else f"no: {row.remark}")
        lines.append(f"| {row.fault} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
