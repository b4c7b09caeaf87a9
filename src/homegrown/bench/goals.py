"""The goals for one machine, each with what the newest records say of it: a Markdown table for the documentation.

A goal is a bound on a ratio that was measured within one run. The smallest record that decides it is named beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homegrown.bench.compare import load
from homegrown.config import UserError

Record = Mapping[str, Any]
SERVED = "bfloat16"
"""The precision in which decoding is judged: that of the family's releases."""


@dataclass(frozen=True)
class Source:
    """Where a goal's figures come from: the newest record of this kind and of a shape by this name."""

    kind: str
    shape: str

    def __str__(self) -> str:
        return f"{self.kind} {self.shape}".strip()


@dataclass(frozen=True)
class Goal:
    """Something to reach.

    Attributes:
        text: what, with the bound in words.
        sources: records that each give an answer of their own.
        bound: of the figure.
        reached: the figure of a record, and a word on how it came about; `None` if that record does not have it.
        most: the figure must be at most the bound, not at least.
        unit: behind the figure: `x`, `%`, `s`.
    """

    text: str
    sources: tuple[Source, ...]
    bound: float
    reached: Callable[[Record], tuple[float, str] | None]
    most: bool = False
    unit: str = "x"


@dataclass(frozen=True)
class Row:
    """A goal and a record's answer."""

    goal: Goal
    source: Source
    value: float | None
    how: str
    file: str

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; `None` where nothing was measured."""
        if self.value is None:
            return None
        return self.value <= self.goal.bound if self.goal.most else self.value >= self.goal.bound


def rows(folder: Path) -> list[Row]:
    """Every goal with every source, from the newest records in a folder."""
    newest = _newest(folder)
    made = []
    for goal in GOALS:
        for source in goal.sources:
            path, record = newest.get(source, (None, None))
            found = goal.reached(record) if record is not None else None
            value, how = found or (None, "")
            made.append(Row(goal, source, value, how, path.name if path and found else ""))
    return made


def markdown(made: Sequence[Row]) -> str:
    """The table."""
    lines = ["| goal | shape | reached | goal met | measured | record |", "|---|---|--:|---|---|---|"]
    for row in made:
        met = {True: "yes", False: "**no**", None: "not measured"}[row.met]
        file = f"`{row.file}`" if row.file else ""
        value = "" if row.value is None else _shown(row.value, row.goal.unit)
        lines.append(f"| {row.goal.text} | {row.source.shape} | {value} | {met} | {row.how} | {file} |")
    return "\n".join(lines)


def _newest(folder: Path) -> dict[Source, tuple[Path, Record]]:
    found: dict[Source, tuple[Path, Record]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = load(path)
        except UserError:  # a server's record, which has no entries
            continue
        source = Source(str(record["kind"]), str(record.get("shape", {}).get("name", "")))
        if source not in found or record["origin"]["date"] >= found[source][1]["origin"]["date"]:
            found[source] = (path, record)
    return found


def _shown(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "%" else f"{value:.2f} {unit}".replace(" x", "x")


# What records say


def _training_ratio(record: Record) -> tuple[float, str] | None:
    best = record.get("comparison")
    return (best["ratio"], f"{best['homegrown']} against {best['peer']}") if best else None


def _training_share(record: Record) -> tuple[float, str] | None:
    shares = [
        item["peak_share"]
        for item in record["entries"]
        if item["implementation"] == "homegrown" and item["mode"] == "bfloat16"
    ]
    return (shares[0], "model FLOPs, bfloat16") if shares else None


def _versus(*cases: str) -> Callable[[Record], tuple[float, str] | None]:
    """Our best mode against the peer's best, in the worst of these cases that the peer was measured in. Eight-bit
    weights, which the peer lacks, are told of and do not count."""

    def reached(record: Record) -> tuple[float, str] | None:
        best: dict[str, Any] = {}
        eight: dict[str, float] = {}
        for found in record.get("versus", ()):
            case, ratio = found["case"], found["ratio"]
            if case not in cases:
                continue
            if found["homegrown"].startswith("int8"):
                eight[case] = max(ratio, eight.get(case, 0.0))
            elif case not in best or ratio > best[case]["ratio"]:
                best[case] = found
        if not best:
            return None
        worst = min(best.values(), key=lambda found: found["ratio"])
        how = f"{worst['case']}: {worst['homegrown']} against {worst['peer']}"
        return worst["ratio"], how + (f"; int8 {eight[worst['case']]:.2f}x" if worst["case"] in eight else "")

    return reached


def _decode_share(record: Record) -> tuple[float, str] | None:
    found = [item for item in _served(record) if item["sizes"]["batch"] == 1 and item.get("share")]
    shortest = min((item["sizes"]["context"] for item in found), default=0)
    shares = {item["mode"].partition(",")[0]: item["share"] for item in found if item["sizes"]["context"] == shortest}
    if SERVED not in shares:
        return None
    others = (f"{mode} {share:.0%}" for mode, share in shares.items() if mode != SERVED)
    return shares[SERVED], "; ".join([f"context {shortest:,}, {SERVED}", *others])


def _context_cost(context: int) -> Callable[[Record], tuple[float, str] | None]:
    """How much longer a step takes behind a context than behind the shortest, of the worst batch."""

    def reached(record: Record) -> tuple[float, str] | None:
        times = {
            (item["sizes"]["batch"], item["sizes"]["context"]): item["seconds"]["median"]
            for item in _served(record)
            if item["mode"].startswith(SERVED)
        }
        shortest = min((at for _, at in times), default=0)
        ratios = {
            batch: seconds / times[batch, shortest]
            for (batch, at), seconds in times.items()
            if at == context and (batch, shortest) in times
        }
        if not ratios:
            return None
        worst = max(ratios, key=lambda batch: ratios[batch])
        others = (f"batch {batch}: {ratio:.2f}x" for batch, ratio in ratios.items() if batch != worst)
        return ratios[worst], "; ".join([f"batch {worst}, {SERVED}, against context {shortest:,}", *others])

    return reached


def _served(record: Record) -> Iterator[Mapping[str, Any]]:
    return (item for item in _ours(record) if item["mode"].endswith(", served"))


def _growth(record: Record) -> tuple[float, str] | None:
    """Time per token of the longest prompt over that of 8K, in the mode that is fastest at the end."""
    per_token = {(item["mode"], item["sizes"]["tokens"]): item["extra"]["ms_per_token"] for item in record["entries"]}
    longest = max(tokens for _, tokens in per_token)
    modes = [mode for mode, tokens in per_token if tokens == longest and (mode, 8192) in per_token]
    if not modes or longest < 131_072:
        return None
    mode = min(modes, key=lambda name: per_token[name, longest])
    share = next(
        item["extra"]["indexer_share"]
        for item in record["entries"]
        if (item["mode"], item["sizes"]["tokens"]) == (mode, longest)
    )
    how = (
        f"{per_token[mode, 8192]:.2f} and {per_token[mode, longest]:.2f} ms a token, {mode}; indexer {share:.0%} of it"
    )
    return per_token[mode, longest] / per_token[mode, 8192], how


def _speculation(record: Record) -> tuple[float, str] | None:
    times = {item["mode"]: item for item in _ours(record) if item["mode"].endswith((", plain", ", speculating"))}
    plain = {mode.removesuffix(", plain"): item for mode, item in times.items() if mode.endswith(", plain")}
    gains = {
        mode: item["seconds"]["median"] / times[f"{mode}, speculating"]["seconds"]["median"]
        for mode, item in plain.items()
        if f"{mode}, speculating" in times
    }
    if not gains:
        return None
    mode = max(gains, key=lambda name: gains[name])
    accepted = times[f"{mode}, speculating"]["extra"]["acceptance"]
    return gains[mode], f"{mode}, {accepted:.0%} of drafts accepted"


def _start(case: str) -> Callable[[Record], tuple[float, str] | None]:
    def reached(record: Record) -> tuple[float, str] | None:
        found = next((item for item in _ours(record) if item["case"] == case), None)
        return (found["seconds"]["median"], f"plain python: {found['floor']['seconds']:.3f} s") if found else None

    return reached


def _load_share(record: Record) -> tuple[float, str] | None:
    worst = min(_loads(record), key=lambda item: item["share"], default=None)
    return (worst["share"], worst["case"]) if worst else None


def _load_memory(record: Record) -> tuple[float, str] | None:
    worst = max(_loads(record), key=lambda item: item["extra"]["peak_over_weights"], default=None)
    return (worst["extra"]["peak_over_weights"], worst["case"]) if worst else None


def _loads(record: Record) -> list[Mapping[str, Any]]:
    """From disk where that was measured."""
    return [item for item in _ours(record) if item["case"] == "load from disk"]


def _ours(record: Record) -> Iterator[Mapping[str, Any]]:
    return (item for item in record["entries"] if item["implementation"] == "homegrown")


def _of(kind: str, *shapes: str) -> tuple[Source, ...]:
    return tuple(Source(kind, shape) for shape in shapes)


GOALS: tuple[Goal, ...] = (
    Goal("training step, best mode of the peer: 3x", _of("train", "tiny", "small"), 3.0, _training_ratio),
    Goal("training step: 55 % of the bf16 peak", _of("train", "tiny", "small"), 0.55, _training_share, unit="%"),
    Goal("prefill of 4,096 tokens: 6x the peer", _of("prefill", "tiny", "small"), 6.0, _versus("4,096 tokens")),
    Goal("time per token at 128K under 2x that at 8K", _of("prefill-long", "sparse"), 2.0, _growth, most=True),
    Goal("decode, batch 1: 70 % of memory bandwidth", _of("decode", "tiny", "small"), 0.7, _decode_share, unit="%"),
    Goal(
        "decode, batch 1: 5x the peer", _of("decode", "tiny", "small"), 5.0,
        _versus("batch 1, context 128", "batch 1, context 4,096"),
    ),
    Goal(
        "decode, batch 8 and 32: 4x the peer", _of("decode", "tiny", "small"), 4.0,
        _versus("batch 8, context 128", "batch 32, context 128"),
    ),
    Goal("context 4,096 within 1.5x of short", _of("decode", "tiny", "small"), 1.5, _context_cost(4096), most=True),
    Goal("context 32K within 1.5x of short", _of("decode", "sparse"), 1.5, _context_cost(32768), most=True),
    Goal("speculation: a further gain", _of("decode", "export"), 1.0, _speculation),
    Goal("import of the package under 0.5 s", _of("load", "tiny"), 0.5, _start("import homegrown"), True, "s"),
    Goal("`--help` under 0.5 s", _of("load", "tiny"), 0.5, _start("homegrown --help"), True, "s"),
    Goal("loading near the speed of a mapped read", _of("load", "tiny", "small"), 0.7, _load_share, unit="%"),
    Goal("peak memory of loading near the weights", _of("load", "tiny", "small"), 1.25, _load_memory, most=True),
)  # fmt: skip
"""In the order of the table. Where a goal gives no number ("near"), the bound here is the project's own."""
