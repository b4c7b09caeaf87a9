"""Whether a run's record is whole, and whether two runs did the same: step by step, bit by bit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homegrown.config import UserError
from homegrown.ledger import Ledger, Record

QUANTITIES = ("data digest", "loss", "grad norm", "skipped", "state digest")
"""What the record holds of a step, in the order in which a step makes it."""
NUMBERS = ("loss", "grad norm")
_DIMENSIONS = re.compile(r"\b(pp|dp|cp|tp|ep|embp) (\d+)|(\d+) (parts) a stage")
_PLACES = {"run", "steps", "device", "threads", "log_every", "tensorboard", "checkpoint", "eval", "parallel", "check",
           "digest_every", "recompute"}  # fmt: skip
"""Keys of a configuration that say where and how long a run goes and how it is watched, not what it is."""

Step = dict[str, Any]
"""Quantity -> its value in the record: bit patterns as hexadecimal text, `skipped` as a bool."""


class VerifyError(UserError):
    """A record that cannot be compared; the message says what it lacks."""


@dataclass(frozen=True)
class Difference:
    """A quantity of a step that two records hold differently."""

    step: int
    quantity: str
    one: Any
    other: Any

    def __str__(self) -> str:
        return f"step {self.step}, {self.quantity}: {_shown(self)}"


@dataclass
class Story:
    """What a ledger says of a run's steps.

    Attributes:
        path: the run directory.
        records: in the ledger; its chain is whole.
        steps: by number, from 1; of a step that was done more than once, the last time.
        again: steps that were done again after a resume, in a layout that is to give the same bits.
        differently: those of them that came out otherwise, and what differed first.
        opening: payload of the last `start` or `resume`.
    """

    path: Path
    records: int = 0
    steps: dict[int, Step] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)
    differently: list[Difference] = field(default_factory=list)
    opening: dict[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> str:
        """As the run described it."""
        return str(self.opening.get("environment", {}).get("layout", "1 rank"))

    @property
    def digests(self) -> int:
        """Steps with a digest of the state."""
        return sum("state digest" in step for step in self.steps.values())


def read_story(run: Path) -> Story:
    """Verify the hash chain of a run's ledger and read its steps.

    Raises:
        LedgerError: no ledger there, or a damaged one; the message names the record.
    """
    story, before = Story(run), dict[int, tuple[Step, str]]()
    for record in Ledger.read(run / "ledger.jsonl"):
        story.records += 1
        payload = record.payload
        if record.kind in ("start", "resume"):
            layout, story.opening = story.layout, payload
            undone = [step for step in story.steps if step > payload["step"]]
            before |= {step: (story.steps.pop(step), layout) for step in undone}
        elif record.kind in ("step", "digest"):
            _note(story, before, payload["step"], dict(_quantities(record)))
    return story


def _note(story: Story, before: Mapping[int, tuple[Step, str]], number: int, found: Step) -> None:
    story.steps.setdefault(number, {}).update(found)
    if number in before and same_bits(before[number][1], story.layout)[0]:
        if number not in story.again:
            story.again.append(number)
        story.differently += list(_differences(number, before[number][0], found))[:1]


def _quantities(record: Record) -> Iterator[tuple[str, Any]]:
    payload = record.payload
    if record.kind == "digest":
        yield "data digest", payload["data"]
        yield "state digest", payload["state"]
    else:
        yield "loss", payload["loss"]
        yield "grad norm", payload["grad_norm"]
        yield "skipped", payload["skipped"]


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        steps: that both have.
        compared: of each quantity, how many steps both have it of.
        first: where they differ first; `None` where they agree.
        largest: largest relative distance of a loss or gradient norm, with its step and quantity.
    """

    steps: list[int]
    compared: dict[str, int]
    first: Difference | None
    largest: tuple[float, int, str]

    @property
    def agreed(self) -> int:
        """Steps before the first difference."""
        return len(self.steps) if self.first is None else self.steps.index(self.first.step)


def compare(one: Story, other: Story, within: float = 0.0) -> Comparison:
    """Compare two runs step by step.

    Args:
        one, other: the runs.
        within: largest relative distance of losses and gradient norms that counts as agreement; 0 compares bits, and
            digests of the state as well. Digests of the data are always compared: no layout changes the data.

    Raises:
        VerifyError: they have no step in common.
    """
    steps = sorted(one.steps.keys() & other.steps.keys())
    if not steps:
        raise VerifyError(f"{one.path} and {other.path} have no step in common: nothing can be compared")
    compared = {
        quantity: sum(quantity in one.steps[step] and quantity in other.steps[step] for step in steps)
        for quantity in QUANTITIES
    }
    first, largest = None, (0.0, 0, "")
    for step in steps:
        mine, theirs = one.steps[step], other.steps[step]
        for quantity in NUMBERS:
            if quantity in mine and quantity in theirs:
                largest = max(largest, (_distance(mine[quantity], theirs[quantity]), step, quantity))
        first = first or next(_differences(step, mine, theirs, within), None)
    return Comparison(steps, compared, first, largest)


def expectation(one: Story, other: Story) -> tuple[bool, str]:
    """Whether two runs are to agree bit for bit, and why."""
    reasons = [*_other_settings(one, other), *_other_machine(one, other)]
    if reasons:
        return False, "; ".join(reasons)
    return same_bits(one.layout, other.layout)


def same_bits(one: str, other: str) -> tuple[bool, str]:
    """Whether runs in two layouts, as `Layout.describe` tells them, are to agree bit for bit, and why."""
    mine, theirs = _dimensions(one), _dimensions(other)
    different = [name for name in mine if mine[name] != theirs[name]]
    if not different:
        return True, "the same layout: to agree bit for bit"
    if set(different) <= {"dp", "embp"} and all(mine[name] == 1 for name in ("pp", "cp", "tp", "ep", "parts")):
        return True, "layouts that differ in data parallelism alone: to agree bit for bit"
    return (
        False,
        f"layouts that differ in {', '.join(different)}: sums are formed in other orders, to agree to rounding",
    )


def _other_settings(one: Story, other: Story) -> Iterator[str]:
    mine, theirs = (_flat(story.opening.get("config", {})) for story in (one, other))
    for key in sorted(mine.keys() | theirs.keys()):
        if key.partition(".")[0] not in _PLACES and key != "data.path" and mine.get(key) != theirs.get(key):
            yield f"{key} = {mine.get(key)!r} against {theirs.get(key)!r}: not the same run"
    if one.opening.get("data_fingerprint") != other.opening.get("data_fingerprint"):
        yield "other data"


def _other_machine(one: Story, other: Story) -> Iterator[str]:
    mine, theirs = (story.opening.get("environment", {}) for story in (one, other))
    for key, what in (("torch", "PyTorch"), ("dtype", "precision"), ("threads", "threads"), ("ops", "kernels")):
        if mine.get(key) != theirs.get(key):
            yield f"{what} {mine.get(key)} against {theirs.get(key)}: the same bits are not promised"
    names = [story.get("device", {}).get("name") for story in (mine, theirs)]
    if names[0] != names[1]:
        yield f"devices {names[0]} against {names[1]}: the same bits are not promised"


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def _dimensions(layout: str) -> dict[str, int]:
    sizes = dict.fromkeys(("pp", "dp", "cp", "tp", "ep", "embp", "parts"), 1)
    for name, size, parts, _ in _DIMENSIONS.findall(layout):
        sizes[name or "parts"] = int(size or parts)
    return sizes


def _differences(number: int, one: Step, other: Step, within: float = 0.0) -> Iterator[Difference]:
    for quantity in QUANTITIES:
        if quantity not in one or quantity not in other or one[quantity] == other[quantity]:
            continue
        if within > 0 and (
            quantity == "state digest" or (quantity in NUMBERS and _distance(one[quantity], other[quantity]) <= within)
        ):
            continue
        yield Difference(number, quantity, one[quantity], other[quantity])


def _distance(one: str, other: str) -> float:
    """|a − b| / |b|, infinite where only one of them is finite or b is zero; 0 for the same bits."""
    if one == other:
        return 0.0
    left, right = float.fromhex(one), float.fromhex(other)
    distance = abs(left - right) / abs(right) if right else float("inf")
    return distance if distance == distance else float("inf")


def _shown(difference: Difference) -> str:
    if difference.quantity in NUMBERS:
        values = (f"{float.fromhex(value):.9g} ({value})" for value in (difference.one, difference.other))
    else:
        values = (str(value)[:16] for value in (difference.one, difference.other))
    return " against ".join(values)
