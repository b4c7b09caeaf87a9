"""A trace of a few steps, for the usual viewers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homegrown.config.atomic import atomic_path
from homegrown.train.run import Run
from homegrown.train.trainer import Callback, Measured

SKIPPED_STEPS = 2
"""Steps before the first recorded one: they allocate and warm up."""


class Profile(Callback):
    """Records `profile_steps` steps of this process, what the host and the device did, and writes them as one file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._profiler: Any = None
        self._begun = 0

    def on_start(self, run: Run) -> None:
        """Recording begins after the steps that warm up."""
        self._begun = run.step

    def on_step(self, run: Run, measured: Measured) -> None:
        """Begin or end, between two steps."""
        done = run.step - self._begun
        if done == SKIPPED_STEPS:
            from torch.profiler import profile

            self._profiler = profile()
            self._profiler.start()
        elif done == SKIPPED_STEPS + run.config.profile_steps:
            self._write(run)

    def on_end(self, run: Run, outcome: object) -> None:
        """A run that ended sooner leaves what there is."""
        self._write(run)

    def _write(self, run: Run) -> None:
        if self._profiler is None:
            return
        self._profiler.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        name = self._folder / f"rank-{run.bench.world.rank:05d}.json"
        with atomic_path(name) as temporary:
            self._profiler.export_chrome_trace(str(temporary))
        self._profiler = None
