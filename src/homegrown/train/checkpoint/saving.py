"""The protocol of a save to disk: begin, write, report, seal, commit. It may run in a background thread."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from homegrown.train.checkpoint import store
from homegrown.train.checkpoint.content import Manifest, Part
from homegrown.train.checkpoint.part import Watch, part_name, write_part
from homegrown.train.checkpoint.peers import Peers
from homegrown.train.checkpoint.together import RankError, together

Place = Literal["disk", "memory"]


@dataclass(frozen=True)
class Report:
    """How a save ended.

    Attributes:
        step: optimizer steps taken.
        place: on disk, or in the memory of hosts.
        path: the checkpoint's directory.
        size: bytes that this rank handed over.
        blocked: seconds that training waited, for the copy to host memory and for the save before this one.
        seconds: from the call to the commit.
        error: why it failed; older checkpoints are as they were. `None` if it did not.
        fatal: trying again cannot help: the state itself is at fault.
    """

    step: int
    place: Place
    path: Path
    size: int
    blocked: float = 0.0
    seconds: float = 0.0
    error: str | None = None
    fatal: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A moment of training, in host memory: what this rank owns of it.

    Attributes:
        facts: used of rank 0 only, like `layout` and `run`; see `Manifest`.
    """

    step: int
    tensors: Mapping[str, Tensor]
    facts: dict[str, Any]
    layout: dict[str, Any] = field(default_factory=dict)
    run: str = ""

    def write(self, folder: Path, watch: Watch) -> Part:
        """Check what this rank owns and write it into a new directory.

        Raises:
            RankError: a tensor is not finite.
            OSError: the disk is full or fails.
        """
        watch("write")
        require_finite(self.step, self.tensors)
        return write_part(folder, self.tensors, watch)

    def manifest(self, tables: list[Any]) -> Manifest:
        """The table of contents of what the ranks wrote: their parts as JSON, by rank.

        Raises:
            RankError: two ranks handed over the same key.
        """
        parts = {part_name(rank): Part.of(table) for rank, table in enumerate(tables)}
        owner: dict[str, str] = {}
        for name, part in parts.items():
            for key in part.tensors:
                if key in owner:
                    raise RankError(f"tensor {key!r} is handed over twice, by {owner[key]} and {name}", fatal=True)
                owner[key] = name
        return Manifest(self.step, self.facts, parts, self.layout, self.run)


def save_to_disk(root: Path, peers: Peers, snapshot: Snapshot, keep: int, watch: Watch) -> None:
    """Write a checkpoint, all ranks together, and drop all but the newest `keep`.

    Rank 0 makes a temporary directory and names it; every rank writes its part there, forces it to the disk, and
    reports its files' checksums; rank 0 seals them in the manifest and renames the directory. Whoever dies at any
    moment, and whatever fails, the checkpoints before stay whole, and every rank still alive learns of it.

    Raises:
        RankError: on every rank, if any of them failed or died.
        PeerError: the rank that was to say how it ended does not answer.
    """
    watch("begin")
    name = together(peers, lambda: snapshot.step, lambda steps: store.begin(root, same_step(steps)).name)
    temporary = root / name

    def finish(tables: list[Any]) -> None:
        watch("seal")
        store.seal(temporary, snapshot.manifest(tables))
        watch("commit")
        store.commit(temporary, store.directory(root, snapshot.step))
        store.prune(root, snapshot.step, keep)

    try:
        together(peers, lambda: snapshot.write(temporary / part_name(peers.rank), watch).table(), finish)
    finally:
        if peers.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def same_step(steps: list[int]) -> int:
    """The step that all ranks are saving.

    Raises:
        RankError: they are at different ones.
    """
    for rank, step in enumerate(steps):
        if step != steps[0]:
            raise RankError(f"rank {rank} saves step {step}, rank 0 step {steps[0]}", fatal=True)
    return steps[0]


def require_finite(step: int, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a state that holds infinities or NaN.

    Raises:
        RankError: names the tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # Both extremes are finite just when all is; no mask as large as the tensor is made.
        if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor)):
            raise RankError(f"step {step} is not saved: tensor {name!r} holds non-finite values", fatal=True)
