"""What the workers of a host were doing when a fault was found: a file for each, before they are killed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from homegrown.parallel.flight import Record, stacks_path
from homegrown.supervise.diagnosis import STOPPED
from homegrown.supervise.worker import Worker, process_state

PATIENCE = 2.0
"""Seconds that workers have to write their stacks."""


async def collect(workers: Sequence[Worker], folder: Path, stacks: bool) -> None:
    """Write `folder`/rank-N.txt for each worker: its state, its place in the program, the end of its log.

    Args:
        workers: of this host, dead or alive.
        folder: of the fault.
        stacks: ask the living for the Python stacks of their threads. A worker with a flight record writes them on
            SIGUSR1 and goes on; one without gets SIGABRT, at which Python writes them to its log.

    Raises:
        OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alive = [worker for worker in workers if worker.process.poll() is None] if stacks else []
    asked = {id(worker): (worker, _size(worker)) for worker in alive}
    states = {id(worker): process_state(worker.process.pid) for worker in workers}
    for worker in alive:
        worker.send(signal.SIGUSR1 if worker.flight() else signal.SIGABRT)
    waiting = [entry for key, entry in asked.items() if states[key] != STOPPED]
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not all(_size(worker) > before for worker, before in waiting):
        await asyncio.sleep(0.05)
    if waiting:
        await asyncio.sleep(0.1)  # the last one may be half written
    for worker in workers:
        before = asked[id(worker)][1] if id(worker) in asked else None
        text = _page(worker, states[id(worker)], before)
        (folder / f"rank-{worker.seat.rank}.txt").write_text(text, encoding="utf-8")


def _size(worker: Worker) -> int:
    path = stacks_path(worker.record)
    return path.stat().st_size if path.exists() else 0


def _page(worker: Worker, state: str, before: int | None) -> str:
    record = worker.flight()
    lines = [
        f"rank {worker.seat.rank}, pid {worker.process.pid}, attempt {worker.attempt}, slot {worker.seat.slot}",
        f"process state {state}{' (stopped by a signal)' if state == STOPPED else ''}, in kernel: {_channel(worker)}",
        *_flight(record),
    ]
    if before is not None:
        lines += ["", "stacks:", _stacks(worker, state, before, record)]
    return "\n".join([*lines, "", f"end of {worker.log}:", *worker.last_words(), ""])


def _flight(record: Record | None) -> list[str]:
    if record is None:
        return ["no flight record"]
    now = time.time()
    lines = [f"phase {record.phase!r}, step {record.step}, last moved {now - record.moved:.1f} s ago"]
    if record.collective is not None:
        call = record.collective
        lines.append(
            f"for {now - call.since:.1f} s in {call.op} number {call.sequence} of group {call.group!r} "
            f"{record.groups[call.group]}, {call.nbytes} bytes"
        )
    lines.append(f"collectives entered: {', '.join(f'{name} {n}' for name, n in record.entered.items()) or 'none'}")
    return lines


def _stacks(worker: Worker, state: str, before: int, record: Record | None) -> str:
    if state == STOPPED:
        return "none: a stopped process does not run the code that would write them"
    if record is None:
        return "asked for with SIGABRT: see the log below"
    with stacks_path(worker.record).open(encoding="utf-8", errors="replace") as file:
        file.seek(before)
        return file.read() or f"none were written within {PATIENCE:g} s"


def _channel(worker: Worker) -> str:
    """The function of the kernel in which it sleeps, where the system tells."""
    try:
        return Path(f"/proc/{worker.process.pid}/wchan").read_text().strip("\0\n") or "-"
    except OSError:
        return "-"
