"""A benchmark's result for a person: a table and a few sentences."""

from __future__ import annotations

from rich.table import Table

from homegrown.bench.record import Record, Spread


def table(record: Record) -> Table:
    """One row per contestant, one per measured peak."""
    shape = record.shape
    made = Table(
        title=f"training step, {shape['name']}: {shape['parameters']['total'] / 1e6:.1f}M parameters, "
        f"{shape['parameters']['active'] / 1e6:.1f}M active, {shape['batch']} x {shape['seq_len']} tokens",
        caption=f"{record.origin.device['name']}, {record.origin.threads} threads; medians of {record.repetitions} "
        "interleaved rounds, quartiles in brackets",
    )
    made.add_column("implementation")
    made.add_column("mode")
    for heading in ("step", "tokens/s", "GFLOP/s", "of peak", "floor"):
        made.add_column(heading, justify="right")
    if any(entry.optimizer_seconds for entry in record.entries):
        made.add_column("optimizer", justify="right")
    for entry in record.entries:
        made.add_row(
            entry.implementation,
            entry.mode,
            _times(entry.seconds),
            f"{entry.tokens_per_s:,.0f}",
            f"{entry.achieved_flops / 1e9:,.0f}",
            f"{entry.peak_share:.0%}",
            f"{entry.floor_seconds:.3f} s",
            *([_times(entry.optimizer_seconds)] if entry.optimizer_seconds else []),
        )
    made.add_section()
    for dtype, peak in record.peaks.items():
        made.add_row("matrix multiply", dtype, "", "", f"{peak.maximum / 1e9:,.0f}", "", "")
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
        best = record.comparison
        lines.append(
            f"best against best: homegrown {best.homegrown} is {best.ratio:.2f} times as fast as the peer's "
            f"{best.peer} (round by round {best.paired.minimum:.2f} to {best.paired.maximum:.2f})"
        )
    return "\n".join(lines)


def _times(spread: Spread) -> str:
    return f"{spread.median:.3f} s [{spread.lower_quartile:.3f}-{spread.upper_quartile:.3f}]"
