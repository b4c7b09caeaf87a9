"""A serving plan as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from homegrown.plan.quantity import Interval
from homegrown.plan.serving.names import FIGURES
from homegrown.plan.serving.plan import ServePlan
from homegrown.plan.serving.search import DecodePoint
from homegrown.plan.serving.words import amount, assumptions, layout, range_of, traffic
from homegrown.report.series import spread

ROWS = 9
"""Points of the front that the terminal shows; files and the page have all."""


def plan_tables(plan: ServePlan) -> RenderableType:
    """Everything that the terminal shows of a plan."""
    head = Text.assemble(
        (plan.shape.title, "bold"), " on ", (plan.cluster.title, "bold"), f"\n{traffic(plan)}\n",
    )  # fmt: skip
    notes = Text("\n".join(f"- {line}" for line in assumptions(plan)), style="dim")
    return Group(head, _pools(plan), _figures(plan), _splits(plan), _front(plan), notes)


def figure_table(figures: Mapping[str, Interval], title: str) -> Table:
    """Figures with their intervals, in the order of `FIGURES`."""
    table = _table(title, "", "best guess", "80 % interval")
    for name, named in FIGURES.items():
        if name in figures:
            figure = figures[name]
            table.add_row(named.title, amount(figure.value, named.unit), range_of(figure, named.unit))
    return table


def _pools(plan: ServePlan) -> Table:
    table = _table("Pools", "", "prefill", "decode")
    for label, row in pool_rows(plan).items():
        table.add_row(label, *row)
    return table


def pool_rows(plan: ServePlan) -> dict[str, Sequence[str]]:
    """What the pools are, side by side."""
    pools = plan.prefill, plan.decode
    instances = plan.prefill_instances, plan.decode_instances
    devices = [pool.devices * number for pool, number in zip(pools, instances, strict=True)]
    batch = plan.setup.batch
    return {
        "devices": (f"{devices[0]:,}", f"{devices[1]:,}"),
        "instances": tuple(f"{number} of {pool.devices}" for pool, number in zip(pools, instances, strict=True)),
        "layout": (layout(plan.prefill), layout(plan.decode)),
        "a pass": (
            f"{plan.prefill.chunk:,} tokens a group",
            f"{batch:.0f} requests a group, {batch / plan.decode.tp:.1f} a device",
        ),
        "tokens/s a device": (
            amount(plan.figures["prefill_tokens_per_s_device"].value, "tok/s"),
            amount(plan.figures["decode_tokens_per_s_device"].value, "tok/s"),
        ),
        "latency": (
            f"first token {amount(plan.figures['ttft'].value, 's')}",
            f"each token {amount(plan.figures['tpot'].value, 'ms')}",
        ),
        "weights a device": tuple(
            amount(sum(size for name, size in plan.memory[pool].items() if name not in NO_WEIGHTS), "GB")
            for pool in ("prefill", "decode")
        ),
    }


NO_WEIGHTS = ("keys", "room for keys", "runtime", "kept free")
"""Parts of memory that are none."""


def _figures(plan: ServePlan) -> Table:
    return figure_table(plan.figures, "Figures (memory is the decode pool's)")


def _splits(plan: ServePlan) -> Table:
    table = _table("Where the time goes", "", "decode step", "", "prefill chunk", "")
    steps = plan.decode_parts, plan.prefill_parts
    whole = [sum(parts.values()) for parts in steps]
    for name in dict.fromkeys((*steps[0], *steps[1])):
        cells = []
        for parts, total in zip(steps, whole, strict=True):
            seconds = parts.get(name, 0.0)
            cells += [amount(seconds, "ms"), f"{seconds / total:.0%}"] if seconds else ["", ""]
        table.add_row(name, *cells)
    table.add_row("together", amount(whole[0], "ms"), "", amount(whole[1], "ms"), "", style="bold")
    return table


def _front(plan: ServePlan) -> Table:
    table = _table("Throughput against latency", "tok/s a device", "time per token", "a user sees", "batch", "layout")
    chosen = DecodePoint(plan.decode, plan.setup.batch, plan.figures["tpot"].value, 0.0)
    for index in spread(len(plan.front), ROWS):
        point = plan.front[index]
        style = "bold" if point.pool == chosen.pool and abs(point.batch - chosen.batch) < 0.5 else ""
        table.add_row(
            amount(point.rate, "tok/s"),
            amount(point.tpot, "ms"),
            amount(1 / point.tpot, "tok/s"),
            f"{point.batch:.0f}",
            layout(point.pool),
            style=style,
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column in ("layout",) else "right")
    return table
