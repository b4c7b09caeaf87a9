"""Saving beside training: the call copies the state, a background thread writes it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from homegrown.parallel.groups import ALONE, Group
from homegrown.train.checkpoint import store
from homegrown.train.checkpoint.content import CheckpointError
from homegrown.train.checkpoint.loading import Loaded, Wanted, load
from homegrown.train.checkpoint.memory import Memory, Ring, save_to_memory
from homegrown.train.checkpoint.part import Watch
from homegrown.train.checkpoint.peers import PeerError, Peers
from homegrown.train.checkpoint.saving import Place, Report, Snapshot, save_to_disk
from homegrown.train.checkpoint.staging import Staging
from homegrown.train.checkpoint.together import RankError, describe, together

DISK: tuple[Place, ...] = ("disk",)
MEMORY: tuple[Place, ...] = ("memory",)
SLOW_SECONDS = 1.0
"""A wait for the save before that is worth a word."""


class Checkpoints:
    """The checkpoints of a run, for one process or for many.

    `save` waits for the copy to host memory alone (and for the save before, if that is not done yet). What became of it
    is told by `poll`, which never waits, and by `wait`. A save that fails, on a full disk say, leaves the checkpoints
    before as they are and is reported; only `patience` of them in a row, or a state that cannot be saved, raise.

    All ranks make the same calls with the same steps. The background thread talks to the other ranks over `group`
    alone, so training's own groups are never touched; between `save` and the end of `wait` nothing else may use it.

    Args:
        root: folder of the checkpoints, the same for all ranks.
        keep: number of newest checkpoints kept.
        group: the ranks that save together, on a backend for host memory.
        memory: where this host keeps copies in memory; `None` keeps none.
        run: which run it is; copies in memory that another run left in the same place are not loaded.
        layout: told in the manifest, for people.
        patience: failed saves in a row after which the run ends.
        watch: told the name of each phase of a save as it begins, in the background thread.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: int,
        group: Group = ALONE,
        memory: Memory | None = None,
        run: str = "",
        layout: Mapping[str, Any] | None = None,
        patience: int = 3,
        watch: Watch = lambda phase: None,
    ) -> None:
        self.root, self.memory = root, memory
        self._keep, self._run, self._layout = keep, run, dict(layout or {})
        self._peers, self._patience, self._watch = Peers(group), patience, watch
        self._staging = Staging()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._underway: list[Future[Report]] = []
        self._ring: Ring | None = None
        self._failures: dict[Place, int] = {"disk": 0, "memory": 0}
        self._waited = False
        self.notes: list[str] = []
        """Sentences to be shown; whoever shows them empties the list."""

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        places: Collection[Place] = DISK,
    ) -> None:
        """Copy the state as it is now, and write it in the background. Collective.

        Args:
            step: optimizer steps taken.
            tensors: what this rank owns, on any device, under keys that no other rank uses.
            facts: what is not a tensor and JSON can say; rank 0's are taken.
            places: where it is written to; hosts' memory before disk, being done sooner.
        """
        called = time.perf_counter()
        self._settle()
        waited = time.perf_counter() - called
        if waited > SLOW_SECONDS and not self._waited:
            self._waited = True
            self.notes.append(
                f"step {step} waited {waited:.1f} s for the checkpoint before it: saving takes longer than the time "
                "between saves"
            )
        snapshot = Snapshot(step, self._staging.copy(tensors), dict(facts), self._layout, self._run)
        blocked = time.perf_counter() - called
        for place in sorted(places, reverse=True):
            self._underway.append(self._thread.submit(self._write, place, snapshot, called, blocked))

    def poll(self) -> list[Report]:
        """What became of saves that have ended since the last call; does not wait.

        Raises:
            CheckpointError: a state that cannot be saved, or `patience` failures in a row.
        """
        done = [future for future in self._underway if future.done()]
        self._underway = [future for future in self._underway if future not in done]
        reports = [future.result() for future in done]
        for report in reports:
            self._judge(report)
        return reports

    def wait(self) -> list[Report]:
        """What became of all saves that were not reported yet, when they have ended.

        Raises:
            CheckpointError: as for `poll`.
        """
        self._settle()
        return self.poll()

    def load(self, wanted: Wanted) -> Loaded:
        """Fill tensors from the newest sound state. Collective.

        Args:
            wanted: by key, on any device; or what gives them, called with the manifest that is loaded from. A rank may
                want anything, whichever rank owned it when it was written.

        Raises:
            CheckpointError: a sound checkpoint lacks a wanted tensor or has it in another shape, or ranks fail.
        """
        self._settle()
        return load(self.root, self._peers, self.memory, self._run, wanted)

    def close(self) -> None:
        """Wait for the save that is under way, whatever becomes of it, and end the thread."""
        self._thread.shutdown(wait=True)

    def _settle(self) -> None:
        futures.wait(self._underway)

    def _judge(self, report: Report) -> None:
        failed = self._failures[report.place] + 1 if report.error else 0
        self._failures[report.place] = failed
        if report.fatal:
            raise CheckpointError(str(report.error))
        if failed >= self._patience:
            raise CheckpointError(f"{failed} saves in a row failed; the last, of step {report.step}: {report.error}")

    def _write(self, place: Place, snapshot: Snapshot, called: float, blocked: float) -> Report:
        """The background thread's work."""
        root = self.memory.root if place == "memory" and self.memory else self.root
        size = sum(tensor.nbytes for tensor in snapshot.tensors.values())
        error, fatal = None, False
        try:
            if place == "disk":
                save_to_disk(self.root, self._peers, snapshot, self._keep, self._watch)
            else:
                self._write_to_memory(snapshot)
        except (RankError, PeerError, OSError) as failure:
            error, fatal = describe(failure), getattr(failure, "fatal", False)
        seconds = time.perf_counter() - called
        return Report(snapshot.step, place, store.directory(root, snapshot.step), size, blocked, seconds, error, fatal)

    def _write_to_memory(self, snapshot: Snapshot) -> None:
        if self.memory is None:
            raise RankError("no place for copies in memory is configured", fatal=True)
        if self._ring is None:
            host = self.memory.host
            self._ring = Ring.of(together(self._peers, lambda: host, lambda hosts: hosts), self._peers.rank)
        save_to_memory(self.memory, self._peers, self._ring, snapshot, self._watch)
