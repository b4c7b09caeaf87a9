"""`homegrown plan chips`, `plan clusters`, `plan models`: what the planner knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homegrown.plan.catalogue import Catalogue
    from homegrown.plan.facts import Chip, Cluster, Shape
    from homegrown.plan.quantity import Quantity

_LARGE = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the planner knows, with the worst mark of each line: A, read in a primary source; A-, in a copy of it; B, in
    a secondary one; C, press; gap, a range of what is plausible. Figures of chips with ranges beside them are in the
    package's data files, with the sources."""

    data: Path | None = None
    """A folder with chips, clusters, models and prices of your own, over the package's."""


def chips(argv: list[str]) -> int:
    """`homegrown plan chips`."""
    catalogue = _catalogue(argv, "plan chips")
    _table(
        ("chip", "unit", "bf16", "fp8", "products reach", "memory", "bandwidth", "power", "rent an hour", "mark"),
        (_chip(name, chip) for name, chip in catalogue.chips.things.items()),
    )
    return 0


def clusters(argv: list[str]) -> int:
    """`homegrown plan clusters`."""
    catalogue = _catalogue(argv, "plan clusters")
    _table(
        ("cluster", "what it is", "links of a device, one way", "failures per 1000 node-days", "mark"),
        (_cluster(name, cluster) for name, cluster in catalogue.clusters.things.items()),
    )
    return 0


def models(argv: list[str]) -> int:
    """`homegrown plan models`."""
    catalogue = _catalogue(argv, "plan models")
    from homegrown.plan.shapes import preset_shape, preset_shape_names

    shapes = [preset_shape(name) for name in preset_shape_names()]
    shapes += [model.shape for model in catalogue.models.things.values()]
    _table(("model", "what it is", "parameters", "active", "layers", "hidden", "context"), map(_model, shapes))
    return 0


def _catalogue(argv: list[str], command: str) -> Catalogue:
    from homegrown.cli.common import parse
    from homegrown.plan.catalogue import Catalogue

    return Catalogue.load(parse(Listing, argv, command).data)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, overflow="fold", style="bold" if not number else "")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)


def _chip(name: str, chip: Chip) -> Iterable[str]:
    yield name if chip.status == "sold" else f"{name} (announced)"
    yield chip.unit
    for dtype in ("bf16", "fp8"):
        yield _large(chip.peak[dtype], "FLOP/s") if dtype in chip.peak else "-"
    yield ", ".join(
        f"{100 * chip.ceiling[dtype].value:.0f} % {dtype}" for dtype in ("bf16", "fp8") if dtype in chip.ceiling
    )
    yield _large(chip.memory, "B")
    yield _large(chip.bandwidth, "B/s")
    yield f"{chip.power.value:,.0f} W"
    yield f"${chip.rental.value:.2f}" if chip.rental else "-"
    shown = [figures[dtype] for figures in (chip.peak, chip.ceiling) for dtype in ("bf16", "fp8") if dtype in figures]
    yield _worst((*shown, chip.memory, chip.bandwidth, chip.power))


def _cluster(name: str, cluster: Cluster) -> Iterable[str]:
    yield name
    yield cluster.title
    yield ", ".join(
        f"{tier.name}{f' of {tier.size:,}' if tier.size else ''} {_large(tier.bandwidth, 'B/s')}"
        for tier in cluster.tiers
    )
    yield f"{1000 * cluster.failures.low:.1f} to {1000 * cluster.failures.high:.1f}"
    yield _worst((*(tier.bandwidth for tier in cluster.tiers), cluster.failures, cluster.system_power))


def _model(shape: Shape) -> Iterable[str]:
    from homegrown.plan.shapes import parameters

    counted = parameters(shape)
    yield shape.name
    yield shape.title
    yield _size(counted.total)
    yield _size(counted.active())
    yield str(shape.depth)
    yield f"{shape.hidden:,}"
    yield f"{shape.context:,}" if shape.context else "-"


def _worst(figures: Iterable[Quantity]) -> str:
    from homegrown.plan.reading import MARKS

    return max((figure.mark for figure in figures), key=MARKS.index)


def _large(figure: Quantity, unit: str) -> str:
    size, prefix = next(((size, prefix) for size, prefix in _LARGE if figure.value >= size), (1.0, ""))
    return f"{figure.value / size:.4g} {prefix}{unit}"


def _size(numbers: float) -> str:
    size, suffix = next(((size, suffix) for size, suffix in ((1e12, "T"), (1e9, "B")) if numbers >= size), (1e6, "M"))
    return f"{numbers / size:.4g}{suffix}"
