"""What a self-test found, as data: one JSON file on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from homegrown.bench.record import Origin, Spread
from homegrown.config import UserError
from homegrown.config.atomic import write_bytes


@dataclass(frozen=True, kw_only=True)
class KernelResult:
    """One implementation of an op in one dtype, forward and backward."""

    kernel: str
    implementation: str
    dtype: str
    tolerance: float
    error: float = 0.0
    """Largest deviation of output or gradients from the reference in float64 on the CPU, relative to the largest entry;
    0 where the result is not a number of floating point."""
    repeats: bool = True
    """Every run had the same bits."""
    digest: str = ""
    """sha256 over the bits of output and gradients."""
    failure: str = ""
    """Why it did not run."""

    @property
    def name(self) -> str:
        """Kernel, implementation and dtype."""
        return f"{self.kernel} ({self.implementation}, {self.dtype})"


@dataclass(frozen=True, kw_only=True)
class CollectiveResult:
    """One operation among one group of processes, as one of them saw it."""

    operation: str
    size: int
    """Processes in the group; they are neighbours by rank."""
    failure: str = ""
    """What was wrong with its results; empty if they were right in all dtypes."""
    latency: Spread | None = None
    """Seconds of a call that sends next to nothing; `None` where it was not timed."""
    bandwidth: Spread | None = None
    """Bytes a second that this process sent to others in large calls."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one process found."""

    rank: int
    host: str
    origin: Origin
    multiply: dict[str, Spread]
    """Matrix-multiply FLOP/s by dtype."""
    unsupported: dict[str, str]
    """Dtypes that the device does not multiply, and its words."""
    bandwidth: Spread
    """Memory bandwidth in B/s."""
    kernels: list[KernelResult]
    collectives: list[CollectiveResult]

    @property
    def kind(self) -> tuple[str, str]:
        """Name and architecture of the device: equals compute equal bits at like speed."""
        return str(self.origin.device["name"]), str(self.origin.device["architecture"])


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something to know: a fault makes the verdict, a warning does not."""

    severity: Literal["fault", "warning"]
    ranks: list[int]
    message: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """A self-test. `read` gives it back from its file."""

    kind: str
    schema: int
    quick: bool
    nodes: list[Node]
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """No fault was found."""
        return not any(finding.severity == "fault" for finding in self.findings)


def write(report: Report, path: Path) -> None:
    """Write as indented JSON, atomically."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read(path: Path) -> Report:
    """Read a report back.

    Raises:
        UserError: there is no such file, or it is not a report of this version.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `homegrown doctor --json FILE` writes one") from None
    except msgspec.MsgspecError as error:
        raise UserError(f"{path}: not a report of `homegrown doctor --json`: {error}") from None


def named(ranks: Sequence[int]) -> str:
    """`rank 3`, or `ranks 0-2, 5`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"
