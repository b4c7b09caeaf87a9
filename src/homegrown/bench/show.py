"""A benchmark's result for a person: a table and a few sentences."""

from __future__ import annotations

from rich.table import Table

from homegrown.bench.record import Comparison, Record, Spread

BUSY = 0.9
"""With less of the processor time it could have used, a run was disturbed."""


def table(record: Record) -> Table:
    """One row per contestant, one per measured peak."""
    shape = record.shape
    made = Table(
        title=f"training step, {shape['name']}: {shape['parameters']['total'] / 1e6:.1f}M parameters, "
        f"{shape['parameters']['active'] / 1e6:.1f}M active, {shape['batch']} x {shape['seq_len']} tokens",
        caption=f"{record.origin.device['name']}, threads: {record.origin.threads}; medians of {record.repetitions} "
        "interleaved rounds ± half their quartile range",
    )
    made.add_column("", no_wrap=True)
    headings = ["step, s", "tokens/s", "GFLOP/s", "of peak", "floor, s"]
    with_optimizer = any(entry.optimizer_seconds for entry in record.entries)
    for heading in [*headings, "optimizer, s"] if with_optimizer else headings:
        made.add_column(heading, justify="right")
    for entry in record.entries:
        made.add_row(
            f"{entry.implementation} {entry.mode}",
            times(entry.seconds),
            f"{entry.tokens_per_s:,.0f}",
            f"{entry.achieved_flops / 1e9:,.0f}",
            f"{entry.peak_share:.0%}",
            f"{entry.floor_seconds:.3f}",
            *([times(entry.optimizer_seconds)] if entry.optimizer_seconds else []),
        )
    made.add_section()
    for dtype, peak in record.peaks.items():
        made.add_row(f"matrix multiply {dtype}", "", "", f"{peak.maximum / 1e9:,.0f}")
    return made


def summary(record: Record) -> str:
    """What the numbers say, in plain lines."""
    lines = [
        f"floor: {record.flops['per_step'] / 1e9:.1f} GFLOP a step over the measured matrix-multiply peak of the dtype"
    ]
    if record.agreement is not None:
        lines.append(
            f"same function: loss {record.agreement.loss:.6f} and {record.agreement.peer_loss:.6f}, gradient norm "
            f"{record.agreement.gradient_norm:.6g} and {record.agreement.peer_gradient_norm:.6g} in float32"
        )
    if record.comparison is not None:
        lines.append(f"best against best: {_compared(record.comparison)}")
    share = processor_share(record)
    if record.origin.device["type"] == "cpu" and share < BUSY:
        lines.append(
            f"disturbed: this process got {share:.0%} of its threads' processor time; times and shares of the peak "
            "above are too bad by that, and unevenly so"
        )
        if record.processor_comparison is not None:
            lines.append(f"by processor time: {_compared(record.processor_comparison)}")
    return "\n".join(lines)


def processor_share(record: Record) -> float:
    """Processor time the contestants got, over what their threads could have used."""
    got = sum(sum(entry.processor_seconds.values) for entry in record.entries)
    took = sum(sum(entry.seconds.values) for entry in record.entries)
    return got / (took * record.origin.threads)


def _compared(best: Comparison) -> str:
    return (
        f"homegrown {best.homegrown} is {best.ratio:.2f} times as fast as the peer's {best.peer} "
        f"(round by round {best.paired.minimum:.2f} to {best.paired.maximum:.2f})"
    )


def times(spread: Spread, scale: float = 1.0) -> str:
    """Median, times `scale`, and half the quartile range relative to it."""
    around = (spread.upper_quartile - spread.lower_quartile) / 2 / spread.median
    return f"{spread.median * scale:,.3f} ±{around:.0%}"
