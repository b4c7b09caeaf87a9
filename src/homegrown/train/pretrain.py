"""A whole pretraining run: open or resume, train, score, analyse, export, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from homegrown.config import TrainConfig
from homegrown.device import EnergyMeter
from homegrown.hub import load, save
from homegrown.model import Longcat
from homegrown.parallel.collectives import barrier, gather_objects
from homegrown.parallel.world import join, leave
from homegrown.report import write_report
from homegrown.train.analysis import analyse
from homegrown.train.callbacks import Checkpoints, HeldOut, MetricsLog, Samples, TensorBoard, record_score
from homegrown.train.corruption import CorruptionError
from homegrown.train.corruption.watch import Integrity, record_corruption
from homegrown.train.digest import Digests
from homegrown.train.display import Display, memory
from homegrown.train.evaluate import Score
from homegrown.train.export import export_checkpoint
from homegrown.train.logs import to_log
from homegrown.train.profile import Profile
from homegrown.train.run import Run, open_run
from homegrown.train.trainer import Callback, Outcome, train

WHOLE_BYTES = 4 << 30
"""Up to this size a spread model is put together on one process at the end, for what the report shows of tokens."""


@dataclass(frozen=True)
class Finished:
    """What a run leaves behind.

    Attributes:
        outcome: how training ended; the rest is `None` when it was stopped.
        score: of the whole held-out split.
        export: Hugging Face directory.
        report: HTML file.
    """

    outcome: Outcome
    score: Score | None = None
    export: Path | None = None
    report: Path | None = None


def pretrain(
    config: TrainConfig, console: Console, *, compare: bool = True, times: dict[str, float] | None = None
) -> Finished:
    """Train as configured, from the start or from where an earlier process stopped, and finish the run.

    Args:
        config: the run.
        console: where progress is shown.
        compare: put general-purpose compressors beside the held-out score.
        times: seconds of stages before this one, for the report.
    """
    world = join(config.device, config.parallel.timeout_s)
    if world.rank:
        console = to_log(config.run / "logs", world.rank)
    run = open_run(config, world)
    try:
        if world.size > 1:
            run.notes.insert(0, f"{run.bench.layout.describe()}; what ranks but the first say: {config.run / 'logs'}")
            run.notes.append("no samples are written: no process holds the whole model")
        run.memory = memory(run)
        started = time.perf_counter()
        outcome = train(run, [*callbacks(run, console)])
        if not outcome.finished:
            return Finished(outcome)
        spent = {**(times or {}), "train": time.perf_counter() - started}
        return _finish(run, console, outcome, compare, spent)
    except CorruptionError as error:
        record_corruption(run, error)
        raise
    finally:
        run.close()
        leave()


def callbacks(run: Run, console: Console) -> Sequence[Callback]:
    """The usual watchers, the record before the display."""
    watchers: list[Callback] = [
        _Energy(),
        MetricsLog(),
        Integrity(),
        Digests(),
        HeldOut(),
        Samples(),
        Checkpoints(console),
        Display(console),
    ]
    if run.config.profile_steps:
        watchers.insert(0, Profile(run.path / "profile"))
    if run.config.tensorboard:
        watchers.insert(1, TensorBoard(run.path / "tensorboard"))
    return watchers


class _Energy(Callback):
    """Measures, or estimates and says so, what the loop consumes."""

    def on_start(self, run: Run) -> None:
        self._meter = EnergyMeter(run.bench.device)
        self._meter.start()

    def on_end(self, run: Run, outcome: Outcome) -> None:
        reading, world = self._meter.stop(), run.bench.world
        # Processes of a host without accelerators share what is measured there.
        counts = world.device.type != "cpu" or world.local_rank == 0
        joules = sum(gather_objects(reading.joules if counts else 0.0, run.bench.groups["world"]))
        run.ledger.append("energy", step=run.step, joules=joules, source=reading.source, detail=reading.detail)


def _finish(run: Run, console: Console, outcome: Outcome, compare: bool, times: dict[str, float]) -> Finished:
    held = run.dataset.held
    score = None
    if held.documents:
        started = time.perf_counter()
        with _bar(console) as progress:
            task = progress.add_task("held-out score", total=held.tokens - held.documents)
            score = run.score(progress=lambda tokens: progress.advance(task, tokens))
        record_score(run, score, final=True)
        times["evaluate"] = time.perf_counter() - started
    export = run.path / "export"
    if run.leads:
        whole = _whole_model(run, export, console)
        with console.status("comparing with gzip and xz" if compare and score else "analysing"):
            analyse(run, whole, score, compare, times)
    run.ledger.append("end", step=run.step, export=str(export.name))
    report = write_report(run.path) if run.leads else None
    barrier(run.bench.groups["saving"])
    return Finished(outcome, score, export, report)


def _whole_model(run: Run, export: Path, console: Console) -> Longcat | None:
    """Write the Hugging Face directory; the model as one, if this process can hold it beside what it has."""
    if run.bench.world.size == 1:
        save(run.model, run.tokenizer, export, overwrite=True)
        return run.model
    # Every process holds a part: the last checkpoint, which has just been written, has the whole.
    export_checkpoint(run.path, export, overwrite=True)
    size = (run.counted.total + run.counted.mtp) * run.bench.dtype.itemsize
    if size > WHOLE_BYTES:
        console.print("the report leaves out compute per token: the model is too large to be put together here")
        return None
    return load(export, device=str(run.bench.device), dtype=run.bench.dtype)[0]


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TimeRemainingColumn(compact=True))
    return Progress(*columns, console=console, transient=True)
