"""Checkpoints of a single process, at once and in one call each: for tools and tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from homegrown.train.checkpoint import store
from homegrown.train.checkpoint.checkpoints import Checkpoints
from homegrown.train.checkpoint.content import CheckpointError, Manifest
from homegrown.train.checkpoint.disk import read_parts
from homegrown.train.checkpoint.inspection import inspect


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        step: optimizer steps taken.
        tensors: everything that is a tensor, by key, in host memory.
        facts: everything else, as written.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(root: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint and drop all but the newest `keep`; see `Checkpoints.save`.

    Raises:
        CheckpointError: a floating tensor is not finite, or the disk is full or fails.
    """
    with Checkpoints(root, keep=keep, patience=1) as checkpoints:
        checkpoints.save(step, tensors, facts)
        checkpoints.wait()
    return store.directory(root, step)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint, all of it.

    Raises:
        CheckpointError: a file is missing, truncated, altered or not what it claims to be.
    """
    manifest = inspect(path, verify=True)
    tensors = _space(manifest)
    read_parts(path, manifest, tensors)
    return Checkpoint(manifest.step, tensors, manifest.facts)


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, or `None`, and one sentence for each fault of newer ones that were passed over."""
    complaints: list[str] = []
    for step in reversed(store.saved_steps(root)):
        try:
            return load_checkpoint(store.directory(root, step)), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, complaints


def _space(manifest: Manifest) -> dict[str, Tensor]:
    return {key: spec.empty() for key, spec in manifest.tensors.items()}
