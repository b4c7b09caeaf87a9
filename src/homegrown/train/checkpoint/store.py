"""The directory of a run's checkpoints: which are there, which are kept, how one comes in."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from homegrown.train.checkpoint.content import MANIFEST, Manifest


def directory(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lives."""
    return root / f"step-{step:08d}"


def saved_steps(root: Path) -> list[int]:
    """Steps with a checkpoint, oldest first; none if there is no such directory."""
    if not root.is_dir():
        return []
    return sorted(int(entry.name[5:]) for entry in root.glob("step-*") if entry.name[5:].isdigit())


def clean_up(root: Path) -> None:
    """Remove what a killed save left behind, and checkpoints that were replaced."""
    for leftover in root.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def begin(root: Path, step: int) -> Path:
    """A new directory beside the checkpoints, under a name that `clean_up` removes.

    Raises:
        OSError: the disk is full or fails.
    """
    target = directory(root, step)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    return temporary


def seal(temporary: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file, and force the directory to the disk."""
    with (temporary / MANIFEST).open("w", encoding="utf-8") as stream:
        stream.write(manifest.text())
        stream.flush()
        os.fsync(stream.fileno())
    sync_directory(temporary)


def commit(temporary: Path, target: Path) -> None:
    """Let a sealed directory appear under its name; one that is there already gives way to it."""
    if target.exists():
        target.rename(target.with_name(f".{target.name}.{secrets.token_hex(4)}.old.tmp"))
    temporary.rename(target)
    sync_directory(target.parent)


def prune(root: Path, step: int, keep: int) -> None:
    """Drop leftovers and all but the newest `keep` checkpoints up to `step`.

    Checkpoints of later steps were damaged when the run resumed before them: they go too, and count for nothing.
    """
    clean_up(root)
    steps = saved_steps(root)
    newest = [known for known in steps if known <= step][-keep:]
    for gone in sorted(set(steps).difference(newest)):
        # Under a name of a leftover first: a checkpoint half removed must not look like a damaged one.
        doomed = directory(root, gone).rename(root / f".step-{gone:08d}.old.tmp")
        shutil.rmtree(doomed)


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
