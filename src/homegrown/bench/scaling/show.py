"""The result for a person."""

from __future__ import annotations

from rich.table import Table

from homegrown.bench.record import Spread
from homegrown.bench.scaling.record import ScalingRecord
from homegrown.bench.show import BUSY


def table(record: ScalingRecord) -> Table:
    """One row per way to take the step."""
    data = record.config["data"]
    made = Table(
        title=f"optimizer step of {record.tokens:,} tokens in micro-batches of {data['micro_batch']} x "
        f"{data['seq_len']}, {record.config['precision']}, {'dataset' if record.data else 'made-up tokens'}",
        caption=f"{record.origin.device['name']}, {record.origin.device['cores']} cores; medians of "
        f"{record.repetitions} interleaved rounds of {record.steps} steps ± half their quartile range",
    )
    made.add_column("", no_wrap=True)
    for heading in ("step, ms", "tokens/s", "ratio", "by round"):
        made.add_column(heading, justify="right")
    for entry in record.entries:
        made.add_row(
            entry.name,
            _milliseconds(entry.seconds),
            f"{entry.tokens_per_s:,.0f}",
            f"{entry.ratio:.2f}",
            f"{entry.paired.minimum:.2f}–{entry.paired.maximum:.2f}",
        )
    return made


def summary(record: ScalingRecord) -> str:
    """What a reader must know beside the table."""
    losses = [entry.loss for entry in record.entries]
    lines = [
        *_sums(record),
        f"same function: the first loss is {min(losses):.6f} to {max(losses):.6f} in all of them",
    ]
    share = processor_share(record)
    if record.origin.device["type"] == "cpu" and share < BUSY:
        lines.append(
            f"disturbed: the one process with one thread got {share:.0%} of a core; others used the machine, and the "
            "ratios above are only as good as their spread"
        )
    return "\n".join(lines)


def processor_share(record: ScalingRecord) -> float:
    """Processor time that the one process with one thread got, over the time that went by."""
    alone = record.entries[0]
    return sum(alone.processor_seconds.values) / sum(alone.seconds.values)


def _milliseconds(spread: Spread) -> str:
    around = (spread.upper_quartile - spread.lower_quartile) / 2 / spread.median
    return f"{spread.median * 1e3:,.1f} ±{around:.0%}"


def _sums(record: ScalingRecord) -> list[str]:
    return [
        f"sum of {way.bytes / 2**20:g} MiB over {way.processes} processes, {way.name}: {_milliseconds(way.seconds)} ms"
        for way in record.sums
    ]
