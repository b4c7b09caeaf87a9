"""A speed record for a person: a table, and what must be known beside it."""

from __future__ import annotations

from rich.table import Table

from homegrown.bench.show import BUSY, times
from homegrown.bench.speed.record import OURS, SpeedEntry, SpeedRecord, Versus

EXTRAS = {
    "ms_per_token": ("ms/token", "{:,.2f}"),
    "indexer_share": ("indexer", "{:.0%}"),
    "peak_memory_bytes": ("peak, MiB", "MiB"),
    "acceptance": ("accepted", "{:.0%}"),
    "tokens_per_pass": ("tokens/pass", "{:.2f}"),
    "peak_over_weights": ("peak/weights", "{:.2f}"),
}
"""Further figures that have a column: heading and format."""


def table(record: SpeedRecord) -> Table:
    """One row per contestant and case, then the limits."""
    shape = record.shape
    made = Table(
        title=f"{record.kind}, {shape['name']}: {shape['parameters']['total'] / 1e6:.1f}M parameters",
        caption=f"{record.origin.device['name']}, threads: {record.origin.threads}; medians of {record.repetitions} "
        "interleaved rounds ± half their quartile range; floor: FLOPs over the measured peak or bytes over the "
        "measured read bandwidth, whichever is longer",
    )
    made.add_column("", no_wrap=True)
    extras = [name for name in EXTRAS if any(name in entry.extra for entry in record.entries)]
    headings = ["ms", "tokens/s", "floor, ms", "of floor", "times peer", *(EXTRAS[name][0] for name in extras)]
    for heading in headings:
        made.add_column(heading, justify="right")
    ratios = {(found.case, found.homegrown): found for found in record.versus}
    before = ""
    for entry in record.entries:
        if entry.case != before:
            made.add_section()
            made.add_row(f"[bold]{entry.case}[/bold]")
        ratio = ratios.get((entry.case, entry.mode)) if entry.implementation == OURS else None
        cells = [*_figures(entry, ratio), *(_extra(entry, name) for name in extras)]
        made.add_row(f"  {_who(entry, record.ran)}", *cells)
        before = entry.case
    made.add_section()
    for name, spread in record.limits.items():
        unit = "GFLOP/s" if name.startswith("multiply") else "GB/s"
        made.add_row(name, f"{spread.maximum / 1e9:,.1f} {unit}")
    return made


def summary(record: SpeedRecord) -> str:
    """What the figures rest on, in plain lines."""
    lines = [f"{name}: {how}" for name, how in record.ran.items() if name.startswith("decode ")]
    lines += record.notes
    checked = [
        entry.difference
        for entry in record.entries
        if entry.implementation == "transformers" and entry.mode == "float32"
    ]
    apart = [value for value in checked if value is not None]
    if apart:
        lines.append(f"same function: float32 logits of both differ by at most {max(apart):.1g} (relative)")
    share = processor_share(record)
    if record.origin.device["type"] == "cpu" and record.kind != "load" and share < BUSY:
        lines.append(
            f"disturbed: this process got {share:.0%} of its threads' processor time, or left threads idle; times are "
            "too long by that, and unevenly so"
        )
    return "\n".join(lines)


def processor_share(record: SpeedRecord) -> float:
    """Processor time the contestants got, over what their threads could have used."""
    got = sum(sum(entry.processor_seconds.values) for entry in record.entries)
    took = sum(sum(entry.seconds.values) for entry in record.entries)
    return got / (took * record.origin.threads)


def _who(entry: SpeedEntry, ran: dict[str, str]) -> str:
    name = f"{entry.implementation} {entry.mode}".strip()
    op = entry.case.partition(",")[0]
    return f"{name} *" if ran.get(op) == entry.mode else name


def _figures(entry: SpeedEntry, ratio: Versus | None) -> list[str]:
    return [
        times(entry.seconds, 1e3),
        "" if entry.tokens_per_s is None else f"{entry.tokens_per_s:,.1f}",
        "" if entry.floor is None else f"{entry.floor.seconds * 1e3:,.3f} {entry.floor.bound[0]}",
        "" if entry.share is None else f"{entry.share:.0%}",
        "" if ratio is None else f"{ratio.ratio:.2f} ({ratio.paired.minimum:.2f}–{ratio.paired.maximum:.2f})",
    ]


def _extra(entry: SpeedEntry, name: str) -> str:
    if name not in entry.extra:
        return ""
    form = EXTRAS[name][1]
    return f"{entry.extra[name] / 2**20:,.0f}" if form == "MiB" else form.format(entry.extra[name])
