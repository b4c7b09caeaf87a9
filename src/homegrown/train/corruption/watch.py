"""The checks as a watcher of the loop, and the record of what they found."""

from __future__ import annotations

from homegrown.parallel.collectives import barrier
from homegrown.train.corruption.fault import CorruptionError, leave_verdicts
from homegrown.train.run import Run
from homegrown.train.trainer import Callback, Measured


class Integrity(Callback):
    """Checks between steps, before anything else is made of a step; the first time before the first step."""

    def on_start(self, run: Run) -> None:
        """What was loaded has reached all ranks, and each of them computes as its equals do."""
        if run.bench.checks is not None:
            run.bench.checks.before_save(run.step)

    def on_step(self, run: Run, measured: Measured) -> None:
        """Every `check.every` steps and before saves."""
        if run.bench.checks is not None:
            run.bench.checks.between_steps(run.step)


def record_corruption(run: Run, error: CorruptionError) -> None:
    """Write a fault that ends the run into its record, and leave the supervisor a note about each suspect. Collective:
    no process ends before the notes are there."""
    world = run.bench.groups["world"]
    suspects = {str(rank): {"host": error.hosts[rank], "what": error.sentence(rank)} for rank in error.suspects}
    detail = {"check": error.check, "step": error.step, "suspects": suspects}
    run.ledger.append("fault", step=run.step, fault="corruption", detail=detail)
    run.metrics.write("event", step=run.step, event="corruption", detail=detail)
    leave_verdicts(run.path, error, world)
    barrier(world)
