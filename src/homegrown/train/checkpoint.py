"""Checkpoints that are whole or absent: written beside, checksummed, renamed; damaged ones are passed over by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from homegrown.config import UserError
from homegrown.config.atomic import atomic_dir

STATE, MANIFEST = "state.safetensors", "manifest.json"


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        step: optimizer steps taken.
        tensors: everything that is a tensor, by flat name.
        facts: everything else, as written.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def directory(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lives."""
    return root / f"step-{step:08d}"


def save_checkpoint(root: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint and drop all but the newest `keep`.

    The directory appears under its name only when every byte is on disk; a crash at any moment leaves the older ones.
    Checkpoints of later steps were damaged when the run resumed before them: they go too, and count for nothing.

    Raises:
        CheckpointError: a floating tensor is not finite.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"step {step} is not saved: tensor {name!r} holds non-finite values")
    target = directory(root, step)
    if target.exists():
        # An earlier attempt at the same step: moved aside under a name that `clean_up` removes.
        target.rename(target.with_name(f".{target.name}.old.tmp"))
    with atomic_dir(target) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary / STATE)
        content = {"step": step, "facts": facts, "files": {STATE: _digest(temporary / STATE)}}
        manifest = {"content": content, "checksum": _seal(content)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    clean_up(root)
    steps = saved_steps(root)
    newest = [known for known in steps if known <= step][-keep:]
    for gone in sorted(set(steps).difference(newest)):
        shutil.rmtree(directory(root, gone))
    return target


def saved_steps(root: Path) -> list[int]:
    """Steps with a checkpoint, oldest first; none if there is no such directory."""
    if not root.is_dir():
        return []
    return sorted(int(entry.name[5:]) for entry in root.glob("step-*") if entry.name[5:].isdigit())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CheckpointError: a file is missing, truncated, altered or not what it claims to be.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        content = manifest["content"]
        if _seal(content) != manifest["checksum"]:
            raise CheckpointError(f"{path / MANIFEST}: its content does not fit its checksum")
        found, expected = _digest(path / STATE), content["files"][STATE]
        if found != expected:
            raise CheckpointError(f"{path / STATE}: checksum {found[:12]} differs from the recorded {expected[:12]}")
        return Checkpoint(content["step"], load_file(path / STATE), content["facts"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST}: damaged ({error})") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path / STATE}: damaged ({error})") from None


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, or `None`, and one sentence for each damaged one that was passed over."""
    complaints: list[str] = []
    for step in reversed(saved_steps(root)):
        try:
            return load_checkpoint(directory(root, step)), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, complaints


def clean_up(root: Path) -> None:
    """Remove what a killed save left behind, and checkpoints that were replaced."""
    for leftover in root.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
