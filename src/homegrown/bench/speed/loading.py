"""Starting up: imports, the help page, and loading a checkpoint, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from homegrown import hub
from homegrown.bench.interleave import Tick, interleave
from homegrown.bench.peer import PEER, refuse_missing_peer
from homegrown.bench.record import Spread, origin
from homegrown.bench.serve.standin import SPARSE
from homegrown.bench.speed.contest import versus
from homegrown.bench.speed.loader import weight_files
from homegrown.bench.speed.models import config_of
from homegrown.bench.speed.record import OURS, SCHEMA, Floor, SpeedEntry, SpeedRecord
from homegrown.config import UserError, to_table
from homegrown.hub.checkpoint import read_json
from homegrown.model import Longcat, count

STARTS = {
    "python": ["-c", "pass"],
    "import homegrown": ["-c", "import homegrown"],
    "homegrown --help": ["-m", "homegrown", "--help"],
    "import torch": ["-c", "import torch"],
    "import homegrown.model": ["-c", "import homegrown.model"],
}
"""What is started, by name: arguments of the interpreter. Plain `python` is the floor of them all."""
CACHED, EVICTED = "in memory", "from disk"


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What to measure.

    Attributes:
        shape: of a random model that is written for this; ignored where `model` names a directory.
        model: a directory.
        dtype: of the random model's weights.
        peer: load it with the peer, too; the directory must be one that it reads.
        cold: also with the files put out of the system's memory before each load.
        repetitions, warmup: rounds.
        seed: of the random weights.
    """

    shape: str = "tiny"
    model: Path | None = None
    dtype: torch.dtype = torch.float32
    peer: bool = True
    cold: bool = True
    repetitions: int = 5
    warmup: int = 1
    seed: int = 0


@dataclass
class _Taken:
    """Measurements of one thing, a value a round."""

    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    extra_bytes: list[float] = field(default_factory=list)


def run_load(plan: LoadPlan, argv: Sequence[str] = (), tick: Tick = lambda label: None) -> SpeedRecord:
    """Measure.

    Raises:
        UserError: a process failed; the message has the end of what it said.
    """
    if plan.peer:
        refuse_missing_peer()
    tick("setting up")
    with _directory(plan) as folder:
        return _measure(plan, folder, argv, tick)


def count_load(plan: LoadPlan) -> int:
    """How often `run_load` calls its `tick`."""
    loads = (2 + plan.peer) * (1 + plan.cold)
    return 1 + (len(STARTS) + loads) * (plan.warmup + plan.repetitions)


def _measure(plan: LoadPlan, folder: Path, argv: Sequence[str], tick: Tick) -> SpeedRecord:
    taken: dict[tuple[str, str], _Taken] = {}
    work: dict[str, Callable[[], None]] = {}
    for name, arguments in STARTS.items():
        taken[name, ""] = _Taken()
        work[name] = partial(_start, arguments, taken[name, ""])
    hows = ["map", OURS, *([PEER] if plan.peer else [])]
    for state in (CACHED, *([EVICTED] if plan.cold else [])):
        for how in hows:
            taken[how, state] = _Taken()
            work[f"{how}, {state}"] = partial(_load, how, folder, state, taken[how, state])
    order = interleave(work, plan.warmup, plan.repetitions, tick)
    config = hub.parse_config(read_json(folder / "config.json"), str(folder / "config.json"))
    size = sum(path.stat().st_size for path in weight_files(folder))
    entries = _entries(taken, plan.warmup, size)
    return SpeedRecord(
        kind="load",
        schema=SCHEMA,
        origin=origin(torch.device("cpu"), argv, False, [PEER] if plan.peer else []),
        shape={
            "name": plan.model.resolve().name if plan.model else plan.shape,
            "model": to_table(config),
            "parameters": {"total": count(config).total},
            "file_bytes": size,
        },
        limits={
            f"map {state}": Spread.of([size / value for value in one.seconds[plan.warmup :]])
            for (how, state), one in taken.items()
            if how == "map"
        },
        order=list(order),
        warmup=plan.warmup,
        repetitions=plan.repetitions,
        entries=entries,
        versus=versus(entries),
        notes=[
            "every measurement is a new process; a load's time begins when all is imported and ends when every weight "
            "has been read once",
            "floor of a start: plain python; of a load: mapping the files into memory and reading each byte once; the "
            "best of their rounds",
            f"{EVICTED}: the system was told to forget the files (posix_fadvise), which it may not do in full",
            "peak_over_weights: memory at the peak, less that before the load, over the files' size",
        ],
    )


def _entries(taken: dict[tuple[str, str], _Taken], warmup: int, size: int) -> list[SpeedEntry]:
    entries = []
    for (how, state), one in taken.items():
        if how == "map":
            continue
        seconds = Spread.of(one.seconds[warmup:])
        base = taken["map", state] if state else taken["python", ""]
        least = min(base.seconds[warmup:])
        entries.append(
            SpeedEntry(
                case=f"load {state}" if state else how,
                sizes={"bytes": size} if state else {},
                implementation=how if state else OURS,
                mode="" if state else "start",
                seconds=seconds,
                processor_seconds=Spread.of(one.processor_seconds[warmup:]),
                floor=Floor(flops=0.0, bytes=float(size if state else 0), peak="", seconds=least, bound="memory"),
                share=least / seconds.median,
                extra={"peak_over_weights": Spread.of(one.extra_bytes[warmup:]).median / size} if state else {},
            )
        )
    return entries


@contextmanager
def _directory(plan: LoadPlan) -> Iterator[Path]:
    """The directory that is loaded: the plan's own, or a random model's for as long as it is needed."""
    if plan.model is not None:
        yield plan.model
        return
    with TemporaryDirectory(prefix="homegrown-load-", dir=".") as place:
        model = Longcat(config_of(plan.shape))
        model.init_weights(plan.seed)
        folder = Path(place) / plan.shape
        hub.save(model, None, folder, layout=None if plan.shape == SPARSE else "transformers", dtype=plan.dtype)
        yield folder


def _start(arguments: list[str], taken: _Taken) -> None:
    began, processor = time.perf_counter(), _children()
    _run(arguments)
    taken.seconds.append(time.perf_counter() - began)
    taken.processor_seconds.append(_children() - processor)


def _children() -> float:
    """Processor seconds of ended child processes."""
    times = os.times()
    return times.children_user + times.children_system


def _load(how: str, folder: Path, state: str, taken: _Taken) -> None:
    if state == EVICTED:
        _evict(folder)
    threads = str(torch.get_num_threads())
    figures = json.loads(_run(["-m", "homegrown.bench.speed.loader", how, str(folder), threads]).splitlines()[-1])
    taken.seconds.append(figures["seconds"])
    taken.processor_seconds.append(figures["processor_seconds"])
    taken.extra_bytes.append(figures["peak_bytes"] - figures["before_bytes"])


def _run(arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().rpartition("\n")[2]
        raise UserError(f"python {' '.join(arguments)}: ended with status {done.returncode}: {why}")
    return done.stdout


def _evict(folder: Path) -> None:
    """Ask the system to forget the weights' files, where it can be asked."""
    for path in weight_files(folder):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
