"""A benchmark's result as data: one dated JSON file that says what ran, where, and how it compares."""

from __future__ import annotations

import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import torch

import homegrown
from homegrown import device as devices
from homegrown import ops
from homegrown.config.atomic import write_bytes


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Repeated measurements of one quantity: median, quartiles, extremes, and every value in the order taken."""

    median: float
    lower_quartile: float
    upper_quartile: float
    minimum: float
    maximum: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        cuts = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(
            median=statistics.median(values),
            lower_quartile=cuts[0],
            upper_quartile=cuts[2],
            minimum=min(values),
            maximum=max(values),
            values=list(values),
        )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where and how a result came to be."""

    date: str
    """UTC, ISO 8601."""
    command: str
    commit: str
    """Of the source tree, `+changes` if it had uncommitted ones; empty where the package is not in a repository."""
    versions: dict[str, str]
    system: str
    device: dict[str, Any]
    threads: int
    keeps_memory: bool
    """glibc's malloc was told to keep freed memory, as a training run does; it serves all contestants."""
    ops: dict[str, str]
    """Active implementation of each op."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One contestant: an implementation in one mode."""

    implementation: str
    mode: str
    peak_dtype: str
    """The matrix-multiply peak it is held against."""
    loss: float
    """Of the first step, in nats a token."""
    seconds: Spread
    """Forward and backward of one step."""
    processor_seconds: Spread
    """Processor time the process got for it, all threads together. On a CPU, much less than seconds times threads means
    that others used the machine."""
    tokens_per_s: float
    achieved_flops: float
    """Model FLOPs a second."""
    peak_share: float
    floor_seconds: float
    """What the step would take at that peak."""
    optimizer_seconds: Spread | None = None
    """An optimizer step, measured apart; `None` where it was not asked for."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How closely both implementations agreed on the same weights and tokens in float32, before any timing."""

    loss: float
    peer_loss: float
    loss_tolerance: float
    gradient_norm: float
    peer_gradient_norm: float
    gradient_tolerance: float
    """Relative."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Each side's best mode. `ratio` is the peer's median time over ours: above one, ours is faster."""

    homegrown: str
    peer: str
    ratio: float
    paired: Spread
    """The same ratio within each round."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A training benchmark. `msgspec.json.decode(text, type=Record)` reads it back."""

    kind: str
    schema: int
    origin: Origin
    shape: dict[str, Any]
    """name, batch, seq_len, tokens, model (the resolved config), parameters (total, active)."""
    flops: dict[str, Any]
    """per_step, formula, real_experts (measured mean per token and layer)."""
    peaks: dict[str, Spread]
    """Matrix-multiply FLOP/s per dtype, once a round; contestants are held against the maximum."""
    order: list[str]
    """Everything that ran, in order, `warm-up` rounds first."""
    warmup: int
    repetitions: int
    entries: list[Entry]
    agreement: Agreement | None = None
    comparison: Comparison | None = None
    processor_comparison: Comparison | None = None
    """The same by processor time, which other users of the machine hardly touch; on a CPU only."""


def write(record: object, path: Path) -> None:
    """Write a record of any kind as indented JSON, atomically."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def read(path: Path) -> Record:
    """Read a record back; `msgspec.ValidationError` says where it is not one."""
    return msgspec.json.decode(path.read_bytes(), type=Record)


def default_path(kind: str, name: str, now: datetime | None = None) -> Path:
    """benchmarks/DATE-TIME-KIND-NAME.json, in UTC."""
    moment = now or datetime.now(UTC)
    return Path("benchmarks") / f"{moment:%Y-%m-%d-%H%M}-{kind}-{name}.json"


def origin(device: torch.device, argv: Sequence[str], keeps_memory: bool, packages: Sequence[str]) -> Origin:
    """Facts about this process, its machine and its code.

    Args:
        device: where the benchmark runs.
        argv: the command's arguments, without the program's name.
        keeps_memory: what `device.keep_host_memory` said.
        packages: distributions whose versions matter beside torch.
    """
    info = devices.describe(device)
    return Origin(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["homegrown", *argv]),
        commit=commit(Path(homegrown.__file__).parent),
        versions={
            "python": sys.version.split()[0],
            "homegrown": homegrown.__version__,
            "torch": str(torch.__version__),
            **{name: metadata.version(name) for name in packages},
        },
        system=platform.platform(),
        device={
            "type": info.type,
            "name": info.name,
            "architecture": info.features.architecture,
            "memory_bytes": info.memory_bytes,
            "cores": info.cores,
        },
        threads=torch.get_num_threads(),
        keeps_memory=keeps_memory,
        ops=ops.table(),
    )


def commit(folder: Path) -> str:
    """The commit checked out around `folder`, `+changes` if tracked files differ; empty outside a repository."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
