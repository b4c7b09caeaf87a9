"""Looking into checkpoints without loading them; for tools, outside any world."""

from __future__ import annotations

from pathlib import Path

from homegrown.train.checkpoint import store
from homegrown.train.checkpoint.content import MANIFEST, CheckpointError, Manifest, read_manifest
from homegrown.train.checkpoint.disk import part_faults


def holds_checkpoints(path: Path) -> bool:
    """Whether a path is a checkpoint, or a run or folder with any, sound or not."""
    return (path / MANIFEST).exists() or bool(store.saved_steps(_root(path)))


def locate(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the newest sound one of a run or of a folder of checkpoints.

    Raises:
        CheckpointError: there is none, or none is sound; the message says what is wrong with the newest.
    """
    if (path / MANIFEST).exists():
        return path
    root = _root(path)
    first: CheckpointError | None = None
    for step in reversed(store.saved_steps(root)):
        try:
            inspect(store.directory(root, step), verify=True)
        except CheckpointError as error:
            first = first or error
            continue
        return store.directory(root, step)
    raise first or CheckpointError(f"{path}: is no checkpoint, and no run or folder that holds any")


def inspect(path: Path, *, verify: bool = False) -> Manifest:
    """What a checkpoint holds.

    Args:
        path: the checkpoint's directory.
        verify: read all its files and compare their checksums.

    Raises:
        CheckpointError: a file is missing, truncated, altered or not what it claims to be.
    """
    manifest = read_manifest(path)
    faults = part_faults(path, manifest, manifest.parts) if verify else []
    if faults:
        raise CheckpointError(faults[0])
    return manifest


def _root(path: Path) -> Path:
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path
