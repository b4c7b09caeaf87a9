"""`homegrown plan validate`: published runs, replayed from their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from homegrown.config import UsageError

if TYPE_CHECKING:
    from homegrown.plan.validate.replay import Outcome


@dataclass(frozen=True, kw_only=True)
class Validate:
    """Replay published runs from their inputs (model, cluster, layout, batch...), and show the signed errors, whether
    each published figure lies in the planner's 80 % interval, and what was missed.

    docs/planning-validate.md describes the format of a file of your own."""

    runs: Path | None = None
    """A TOML file of your own published or measured runs, in place of the package's."""
    only: tuple[str, ...] = ()
    """Ids of runs, or beginnings of ids; all if not given."""
    data: Path | None = None
    """A folder with chips, clusters, models and prices of your own, over the package's."""
    worlds: int = 64
    """Ways in which uncertain figures are drawn for an interval."""
    json: Path | None = None
    """Write every outcome to this file, in SI units."""
    csv: Path | None = None
    """The same as a table."""
    html: Path | None = None
    """A self-contained page with a plot."""


def run(argv: list[str]) -> int:
    """Replay, show, write."""
    from homegrown.cli.common import parse

    arguments = parse(Validate, argv, "plan validate")
    if arguments.worlds < 2:
        raise UsageError(f"--worlds {arguments.worlds}: an interval needs at least 2")
    from rich.console import Console

    from homegrown.config.atomic import write_text
    from homegrown.plan.catalogue import Catalogue
    from homegrown.plan.validate import files, html
    from homegrown.plan.validate.read import read_runs, shipped_runs
    from homegrown.plan.validate.replay import replay_runs
    from homegrown.plan.validate.scene import Scene
    from homegrown.plan.validate.show import sentences, shown
    from homegrown.plan.validate.wording import EXPLANATION

    runs = shipped_runs() if arguments.runs is None else read_runs(arguments.runs)
    outcomes = replay_runs(runs, Scene(Catalogue.load(arguments.data), arguments.worlds), arguments.only)
    writers: Sequence[tuple[Path | None, Callable[[Sequence[Outcome]], str]]] = (
        (arguments.json, files.to_json),
        (arguments.csv, files.to_csv),
        (arguments.html, html.page),
    )
    console = Console()
    for table in shown(outcomes, console.width):
        console.print(table, "")
    print("\n".join([EXPLANATION, *sentences(outcomes)]))
    for path, text in writers:
        if path is not None:
            write_text(path, text(outcomes))
            print(f"wrote {path}")
    return 0
