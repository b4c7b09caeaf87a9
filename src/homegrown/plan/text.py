"""Plans as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from homegrown.plan import words
from homegrown.plan.quantity import Interval
from homegrown.plan.results import Candidate, Plan, Stage
from homegrown.report.numbers import count, percent, quantity

_LEAST = 0.0005
"""Share below which a part of a step or of the memory is not shown by itself."""


def show_plan(plan: Plan) -> RenderableType:
    """Everything a plan says, as tables: figures with intervals, where a step's time goes, memory, other layouts."""
    head = Text.assemble((plan.model, "bold"), f" on {count(plan.devices)} devices: ", (plan.cluster, "bold"))
    return Group(
        head,
        "",
        _figures(plan),
        *(_basis(plan)),
        "",
        _split(plan.stages),
        *(_hidden(stage) for stage in plan.stages),
        "",
        _memory(plan.stages),
        *(table for stage in plan.stages for table in ("", _layouts(stage))),
        *_assumptions(plan),
    )


def _plain(text: str) -> str:
    """Narrow spaces are made plain: not every terminal's font has them."""
    return text.replace("\u202f", " ")


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False,
        header_style="dim",
    )  # fmt: skip


def _columns(stages: Sequence[Stage], title: str, first: str) -> Table:
    table = _table(title)
    table.add_column(first, no_wrap=True)
    for stage in stages:
        table.add_column(stage.name, justify="right")
    return table


def _figures(plan: Plan) -> Table:
    table = _columns(plan.stages, "What the run comes to, with 80 % intervals", "")
    several = len(plan.stages) > 1
    if several:
        table.add_column("together", justify="right")
    columns: list[Mapping[str, Interval]] = [stage.figures for stage in plan.stages]
    columns += [plan.totals] if several else []
    keys = dict.fromkeys(key for figures in columns for key in figures)
    for key in words.ordered(keys):
        table.add_row(words.figure_of(key).title, *(_interval(key, figures.get(key)) for figures in columns))
    return table


def _interval(key: str, interval: Interval | None) -> Text:
    if interval is None:
        return Text("")
    spread = words.spread(key, interval)
    found = Text(_plain(words.told(key, interval)))
    return found.append(f"\n{_plain(spread)}", "dim") if spread else found


def _basis(plan: Plan) -> list[Text]:
    """What utilisation is a share of: it never stands without."""
    bases = dict.fromkeys(stage.basis for stage in plan.stages if "mfu" in stage.figures)
    return [Text(f"Utilisation is a share {basis}.", "dim") for basis in bases]


def _split(stages: Sequence[Stage]) -> Table:
    table = _columns(stages, "Where a step's time goes", "")
    for group, heading in words.GROUPS.items():
        _group(table, stages, group, heading)
    table.add_section()
    table.add_row("step", *(_plain(quantity(stage.best.time.seconds, "s")) for stage in stages), style="bold")
    return table


def _group(table: Table, stages: Sequence[Stage], group: words.Group, heading: str) -> None:
    """Rows of a group under its sums; what is tiny in all stages is in the sum only."""
    parts = [
        {row.title: row.seconds for row in words.step_rows(stage.best.time) if row.group == group} for stage in stages
    ]
    wholes = [stage.best.time.seconds for stage in stages]
    if not any(parts):
        return
    table.add_section()
    table.add_row(heading, *map(_seconds, [sum(part.values()) for part in parts], wholes), style="bold")
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [part.get(name, 0.0) for part in parts]
        if any(value > _LEAST * whole for value, whole in zip(values, wholes, strict=True)):
            table.add_row(f"  {name}", *map(_seconds, values, wholes))


def _seconds(value: float, whole: float) -> Text:
    return _share(value, whole, lambda seconds: quantity(seconds, "s"))


def _share(value: float, whole: float, tell: words.Tell) -> Text:
    if not value:
        return Text("–", "dim")
    return Text.assemble(_plain(tell(value)), (f" {_plain(percent(value / whole)):>7}", "dim"))


def _hidden(stage: Stage) -> Text:
    hidden = {words.DIMENSIONS.get(name, name): spent for name, spent in stage.best.time.hidden.items() if spent > 0}
    if not hidden:
        return Text(f"{stage.name}: no traffic behind computation.", "dim")
    said = ", ".join(f"{name} {_plain(quantity(spent, 's'))}" for name, spent in hidden.items())
    return Text(f"{stage.name}: behind computation, in no sum: {said}.", "dim")


def _memory(stages: Sequence[Stage]) -> Table:
    table = _columns(stages, "Memory of the fullest device", "")
    found = [stage.best.memory for stage in stages]
    for name in dict.fromkeys(name for memory in found for name in memory.parts):
        if any(memory.parts.get(name, 0.0) > 0 for memory in found):
            table.add_row(
                name, *(_share(memory.parts.get(name, 0.0), memory.total, words.size) for memory in found)
            )  # fmt: skip
    table.add_section()
    table.add_row("together", *(_plain(words.size(memory.total)) for memory in found), style="bold")
    if any(stage.capacity for stage in stages):
        table.add_row("there is", *(_plain(words.size(stage.capacity)) for stage in stages))
    if any(memory.host for memory in found):
        table.add_row("in the host", *(_plain(words.size(memory.host)) for memory in found))
    return table


def _layouts(stage: Stage) -> Table:
    seen = f", {count(stage.considered)} looked at, {count(stage.fitting)} fit" if stage.considered else ""
    table = _table(f"Layouts, {stage.name}{seen}")
    for name in ("", "step", "tokens/s", "memory"):
        table.add_column(name, justify="right")
    table.add_column("layout", overflow="fold")
    for place, candidate in enumerate((stage.best, *stage.others), start=1):
        table.add_row(str(place), *_layout(candidate), style="bold" if place == 1 else "")
    return table


def _layout(candidate: Candidate) -> tuple[str, str, str, str]:
    layout = candidate.layout
    return (
        _plain(quantity(candidate.time.seconds, "s")),
        _plain(quantity(candidate.tokens_per_second)),
        _plain(words.size(candidate.memory.total)),
        f"{words.layout_words(layout)}; {count(layout.devices)} devices, {words.batch_words(layout)}",
    )


def _assumptions(plan: Plan) -> list[RenderableType]:
    if not plan.assumptions:
        return []
    lines = [Padding(Text(f"- {line}", "dim"), (0, 0, 0, 1)) for line in plan.assumptions]
    return ["", Text("Assumed", "bold"), *lines]
