"""What a person sees while a run trains."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from homegrown.train.run import Run
from homegrown.train.trainer import Callback, Measured, Outcome

LINE_SECONDS = 10.0
"""Without a terminal, a plain line this often."""


class Display(Callback):
    """A table of what was chosen, then a live line: a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=None, figures="")
        self._spoke = 0.0

    def on_start(self, run: Run) -> None:
        """Say what the run is, once."""
        for note in run.notes:
            self.console.print(note)
        self.console.print(summary(run))
        self.console.print(optimizer_table(run))
        self._progress.update(self._task, total=run.config.steps, completed=run.step)
        self._progress.start()

    def on_step(self, run: Run, measured: Measured) -> None:
        """Refresh the figures."""
        text = figures(measured)
        self._progress.update(self._task, completed=run.step, figures=text)
        if measured.skipped:
            self._progress.console.print(f"step {run.step} skipped: {text}")
        if not self.console.is_terminal and time.monotonic() - self._spoke >= LINE_SECONDS:
            self._spoke = time.monotonic()
            self.console.print(f"step {run.step}/{run.config.steps}  {text}", highlight=False, soft_wrap=True)

    def on_end(self, run: Run, outcome: Outcome) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
        if outcome.signal is not None:
            self.console.print(
                f"stopped at step {outcome.step} by signal {outcome.signal}; saved. Run again to resume."
            )


def figures(measured: Measured) -> str:
    """The step in one line."""
    values = measured.values
    return (
        f"loss {values['loss']:.3f}  {values['bpb']:.3f} bits/byte  {values['tokens_per_s']:,.0f} tok/s  "
        f"{values['peak_fraction']:.0%} of peak  {values['active_params'] / 1e6:.2f}M active"
    )


def summary(run: Run) -> Table:
    """What runs where, on how much."""
    facts, counted, config = run.environment, run.counted, run.config
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (
        ("model", f"{counted.total / 1e6:,.1f}M parameters, {counted.active(0) / 1e6:,.2f}M active at least"),
        ("data", f"{run.dataset.train.tokens:,} tokens, fingerprint {run.dataset.fingerprint[:12]}"),
        ("batch", f"{config.data.global_batch} x {config.data.seq_len} tokens, {config.steps:,} steps"),
        ("device", f"{facts['device']['name']}, {facts['threads']} threads, {facts['dtype']} weights in the step"),
        ("peak", f"{run.environment['peak_flops'][facts['dtype']] / 1e9:,.0f} GFLOP/s measured ({facts['dtype']})"),
        ("ops", ", ".join(f"{op}: {name}" for op, name in facts["ops"].items())),
        ("order", f"deterministic: {config.deterministic}, seed {config.seed}"),
        ("memory", run.memory),
    ):
        table.add_row(name, value)
    return table


def memory(run: Run) -> str:
    """What a process holds, and the effect of what is recomputed and offloaded, in a line. Collective."""
    config, optimizer = run.config, run.bench.stepper.optimizer
    weights = sum(weight.nbytes for _, weight in run.bench.assembly.named_parameters())
    sizes = optimizer.bytes()
    state = sizes["masters"] + sizes["state"]
    batch = run.bench.batch(run.step)
    kept = run.bench.stepper.kept(batch, config.recompute, config.offload)
    text = f"weights {_megabytes(weights)}, optimizer {_megabytes(state)}"
    text += " (on the host)" if config.offload in ("optimizer", "all") else ""
    text += f", a micro-batch keeps {_megabytes(kept.device)} for its backward pass"
    if (config.recompute, config.offload) != ("none", "none"):
        plain = run.bench.stepper.kept(batch, "none", "none")
        text += f" and {_megabytes(kept.host)} on the host; {_megabytes(plain.device)} without"
    return f"{text} (recompute {config.recompute}, offload {config.offload})"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def optimizer_table(run: Run) -> Table:
    """Which optimizer, rate and decay each parameter group got."""
    table = Table("group", "optimizer", "tensors", "numbers", "rate", "decay", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in run.bench.stepper.optimizer.table():
        table.add_row(
            row["group"],
            row["optimizer"],
            str(row["tensors"]),
            f"{row['parameters']:,}",
            f"{row['lr']:g}",
            f"{row['weight_decay']:g}",
        )
    return table
