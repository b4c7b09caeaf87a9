"""Two records of one kind: what became slower beyond the noise of both.

The rule: a figure is a time over the floor of its own run, or a time where there is no floor, so that a machine that
was slower as a whole is not taken for slower code. Its noise is half the quartile range over the median. It has
regressed if it is worse by more than 5 % and by more than three times the noise of both runs together (the root of the
sum of their squares), and improved if it is better by as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from homegrown.bench.record import Spread
from homegrown.config import UserError

LEAST = 0.05
"""Smaller changes are never flagged."""
NOISES = 3.0
"""Times the noise of both runs together that a change must exceed."""

RULE = (
    f"regressed: worse by more than {LEAST:.0%} and more than {NOISES:g} times the noise of both runs (root of the sum "
    "of squares of half the quartile range over the median); figures with a floor are compared as multiples of it"
)

Verdict = Literal["same", "regressed", "improved"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Something that was timed.

    Attributes:
        seconds: as measured.
        floor: seconds it would have taken at the limits of that run; `None` where there is none.
        ours: not a peer's figure: those are shown, and judge nothing.
    """

    seconds: Spread
    floor: float | None
    ours: bool

    @property
    def noise(self) -> float:
        """Half the quartile range over the median."""
        return (self.seconds.upper_quartile - self.seconds.lower_quartile) / 2 / self.seconds.median


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure in both records. `ratio` is new over old: above one is slower."""

    name: str
    old: Figure
    new: Figure
    ratio: float
    allowed: float
    """The ratio's distance from one that counts as noise."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What became of every figure that both records have, and the names of those that only one has."""

    changes: list[Change]
    only_old: list[str]
    only_new: list[str]

    @property
    def regressions(self) -> list[Change]:
        """Of our own figures."""
        return [change for change in self.changes if change.verdict == "regressed" and change.new.ours]


def load(path: Path) -> dict[str, Any]:
    """A record of any kind as plain data.

    Raises:
        UserError: the file is not a benchmark's record.
    """
    try:
        data = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict) or not {"kind", "origin", "entries"} <= data.keys():
        raise UserError(f"{path}: not a record that can be compared: it needs kind, origin and entries")
    return data


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> Comparison:
    """Judge every figure.

    Raises:
        UserError: the records are of different kinds, shapes or hardware; the message says which.
    """
    for what, key in _keys(old).items():
        if key != _keys(new)[what]:
            raise UserError(f"the records differ in {what}{_values(key, _keys(new)[what])}; times cannot be compared")
    before, after = figures(old), figures(new)
    return Comparison(
        changes=[_change(name, before[name], after[name]) for name in after if name in before],
        only_old=[name for name in before if name not in after],
        only_new=[name for name in after if name not in before],
    )


def last(record: Mapping[str, Any], folder: Path, but: Path) -> Path | None:
    """The newest record in `folder` of the same kind, shape and hardware as `record`, other than the file `but`."""
    found: list[tuple[str, Path]] = []
    for path in folder.glob("*.json"):
        if path.resolve() == but.resolve():
            continue
        try:
            data = load(path)
        except UserError:  # other files may lie there, such as a server's records
            continue
        if _keys(data) == _keys(record):
            found.append((str(data["origin"]["date"]), path))
    return max(found)[1] if found else None


def figures(record: Mapping[str, Any]) -> dict[str, Figure]:
    """What a record timed, by name."""
    found = {}
    for entry in record["entries"]:
        parts = (entry.get(key, "") for key in ("case", "implementation", "mode", "name"))
        floor = entry["floor"]["seconds"] if entry.get("floor") else entry.get("floor_seconds")
        found[", ".join(part for part in parts if part)] = Figure(
            seconds=msgspec.convert(entry["seconds"], Spread),
            floor=floor or None,
            ours=entry.get("implementation", "homegrown") == "homegrown",
        )
    return found


def judge(ratio: float, noises: Iterable[float]) -> tuple[Verdict, float]:
    """The verdict on a figure that became `ratio` times as slow, and what was allowed."""
    allowed = max(LEAST, NOISES * math.sqrt(sum(noise**2 for noise in noises)))
    if ratio > 1 + allowed:
        return "regressed", allowed
    return ("improved" if 1 / ratio > 1 + allowed else "same"), allowed


def _change(name: str, old: Figure, new: Figure) -> Change:
    ratio = new.seconds.median / old.seconds.median
    if old.floor and new.floor:
        ratio *= old.floor / new.floor
    verdict, allowed = judge(ratio, (old.noise, new.noise))
    return Change(name=name, old=old, new=new, ratio=ratio, allowed=allowed, verdict=verdict)


def _keys(record: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """What must be equal for times to be comparable."""
    origin, shape = record["origin"], record.get("shape", {})
    sizes = ("name", "batch", "seq_len", "tokens", "chunk", "steps", "file_bytes")
    return {
        "kind": [record["kind"]],
        "shape": [shape[size] for size in sizes if size in shape],
        "hardware": [origin["device"]["name"], origin["device"]["cores"], origin["threads"]],
        "config": [record.get("config")],
    }


def _values(old: Sequence[Any], new: Sequence[Any]) -> str:
    """What differs, unless it is whole configs."""
    return "" if any(isinstance(value, dict) for value in (*old, *new)) else f": {list(old)} and {list(new)}"
