"""`homegrown bench compare` and `homegrown bench goals`, and what `--against` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import tyro
from rich.table import Table

from homegrown.bench import compare as judging
from homegrown.bench.goals import Row, markdown, rows
from homegrown.cli.common import console, parse
from homegrown.config import UsageError

LAST = "last"
FEW = 5
"""Rounds below which the quartiles say little."""
Against = Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare two records of one benchmark, shape and machine, and say what became slower beyond the noise of both; the
    exit status is then 1.

    A figure is a time as a multiple of the floor measured in its own run, or a time where there is no floor. It has
    regressed if it is worse by more than 5 % and by more than three times the noise: the root of the sum of the squares
    of both runs' half quartile ranges over their medians. The peer's figures are shown; they judge nothing."""

    old: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OLD.json")]
    """The earlier record."""
    new: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="NEW.json")]
    """The later one."""
    all: bool = False
    """Show what stayed the same, too, and name what only one of them has."""


@dataclass(frozen=True, kw_only=True)
class Goals:
    """Print the goals for one machine as a Markdown table, each with what the newest records in a folder say of it."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("benchmarks")
    """Holds records."""
    json: bool = False
    """Print JSON instead."""


def compare(argv: list[str]) -> int:
    """`homegrown bench compare OLD.json NEW.json`."""
    arguments = parse(Compare, argv, "bench compare")
    return _judge(arguments.old, arguments.new, arguments.all)


def goals(argv: list[str]) -> int:
    """`homegrown bench goals`."""
    arguments = parse(Goals, argv, "bench goals")
    if not arguments.folder.is_dir():
        raise UsageError(
            f"{arguments.folder}: no such folder; records are written by `homegrown bench train` and others"
        )
    found = rows(arguments.folder)
    print(_as_json(found) if arguments.json else markdown(found))
    return 0


def judge_against(against: str, new: Path) -> int:
    """What `--against` asks for, of the record that was just written.

    Args:
        against: a file, `last`, or nothing.
        new: the record.

    Returns:
        The exit status: 1 if there is a regression.
    """
    if not against:
        return 0
    if against != LAST:
        return _judge(Path(against), new, False)
    old = judging.last(judging.load(new), Path("benchmarks"), new)
    if old is None:
        print("compared with nothing: benchmarks/ has no earlier record of this kind, shape and hardware")
        return 0
    return _judge(old, new, False)


def _judge(old: Path, new: Path, everything: bool) -> int:
    found = judging.compare(judging.load(old), judging.load(new))
    shown = [change for change in found.changes if everything or change.verdict != "same"]
    if shown:
        console.print(_table(shown))
    for name, names in (("only in the old record", found.only_old), ("only in the new one", found.only_new)):
        if names:
            print(f"{len(names)} figures {name}{': ' + '; '.join(names) if everything else ''}")
    rounds = min(
        (len(side.seconds.values) for change in found.changes for side in (change.old, change.new)), default=FEW
    )
    if rounds < FEW:
        print(f"only {rounds} rounds: noise is judged from {FEW} or more; with fewer, chance is taken for change")
    bad = found.regressions
    print(f"{new} against {old}: {len(found.changes)} figures, {len(bad)} regressed\n{judging.RULE}")
    return 1 if bad else 0


def _table(changes: Sequence[judging.Change]) -> Table:
    made = Table(caption="ratio: new over old, each as a multiple of its floor where it has one; above 1 is slower")
    made.add_column("")
    for heading in ("old, ms", "new, ms", "ratio", "noise", ""):
        made.add_column(heading, justify="right", no_wrap=True)
    for change in changes:
        peers = "" if change.new.ours else " (peer)"
        made.add_row(
            change.name,
            f"{change.old.seconds.median * 1e3:,.3f}",
            f"{change.new.seconds.median * 1e3:,.3f}",
            f"{change.ratio:.2f}",
            f"±{change.allowed:.0%}",
            f"{change.verdict}{peers}",
        )
    return made


def _as_json(found: Sequence[Row]) -> str:
    table = [
        {
            "goal": row.goal.text,
            "shape": row.source.shape,
            "bound": row.goal.bound,
            "at_most": row.goal.most,
            "reached": row.value,
            "met": row.met,
            "how": row.how,
            "record": row.file,
        }
        for row in found
    ]
    return msgspec.json.format(msgspec.json.encode(table), indent=1).decode()
