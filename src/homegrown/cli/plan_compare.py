"""`homegrown plan compare`: the same run on other chips."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from homegrown.cli.plan_training import PlanFlags, check, course, wishes
from homegrown.config import UsageError

if TYPE_CHECKING:
    from homegrown.plan.compare import Comparison

EXAMPLE = (
    "homegrown plan compare --model longcat-2.0 --tokens 35T --cluster atlas-950 --devices 50000 "
    "--against hgx-h800 gb200-nvl72"
)
ABOUT = f"""Plan the same training run on several clusters.

    {EXAMPLE}

plans it on the first, on each other with as many devices, and on each other with as many devices as take as long: days,
devices, energy, cost and the ratios of all of them, with 80 % intervals, memory, and dated facts on price and export.
Ratios are surer than what they are ratios of, since much is uncertain for all clusters alike.

The other flags are those of `homegrown plan`, and hold for every cluster."""


@dataclass(frozen=True, kw_only=True)
class CompareFlags(PlanFlags):
    """Flags of `homegrown plan compare`."""

    against: tuple[str, ...] = ()
    """Names of the clusters to compare with."""
    cost: Literal["any", "rented", "owned"] = "any"
    """How to reckon the cost: by rent, or by what machines cost to buy and run; `any` takes the rent if known."""


def run(argv: list[str]) -> int:
    """Plan, show, write."""
    from homegrown.cli.common import parse

    flags = parse(CompareFlags, argv, "plan compare", about=ABOUT)
    check(flags, EXAMPLE)
    if not flags.against:
        raise UsageError(f"--against: needed, as in `{EXAMPLE}`; `homegrown plan clusters` lists clusters")
    show(made(flags, argv), flags)
    return 0


def made(flags: CompareFlags, argv: Sequence[str]) -> Comparison:
    """The comparison that flags ask for.

    Raises:
        ConfigError: see `compare`; or a name or figure that is not understood.
    """
    from homegrown.cli.plan_common import patient_bar, shape_called
    from homegrown.plan.catalogue import Catalogue
    from homegrown.plan.compare import compare
    from homegrown.plan.upkeep import upkeep_of

    catalogue = Catalogue.load(flags.data)
    shape, asked = shape_called(flags.model, catalogue), catalogue.cluster(flags.cluster)
    others = [catalogue.cluster(name) for name in flags.against]
    wished = wishes(flags)
    how = replace(
        wished.how, upkeep=upkeep_of(catalogue.prices.site), basis=None if flags.cost == "any" else flags.cost
    )
    with patient_bar() as tick:
        return compare(
            shape, asked, flags.devices, others, course(flags, shape), replace(wished, how=how), tick=tick,
            command=shlex.join(["homegrown", "plan", "compare", *argv]),
        )  # fmt: skip


def show(comparison: Comparison, flags: CompareFlags) -> None:
    """Print it, and write the files that were asked for."""
    from rich.console import Console

    from homegrown.config.atomic import write_text
    from homegrown.plan.compare_text import as_csv, as_json, notes, tables

    console = Console()
    for table in tables(comparison, console.width):
        console.print(table)
    for line in notes(comparison):
        console.print(line, markup=False, highlight=False)
    if flags.json:
        write_text(flags.json, as_json(comparison))
    if flags.csv:
        write_text(flags.csv, as_csv(comparison))
    if flags.html:
        from homegrown.plan.compare_page import page

        write_text(flags.html, page(comparison))
