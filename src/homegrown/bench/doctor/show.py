"""A self-test for a person: tables, what is wrong, and the verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from homegrown.bench.doctor.report import CollectiveResult, KernelResult, Node, Report, named
from homegrown.bench.record import Spread


def tables(report: Report) -> Iterator[Table]:
    """Devices, speeds, kernels and, of several processes, collectives."""
    yield _devices(report.nodes)
    yield _speeds(report.nodes)
    yield _kernels(report.nodes)
    if any(node.collectives for node in report.nodes):
        yield _collectives(report.nodes)


def findings(report: Report) -> Text:
    """One line each; empty if there are none."""
    text = Text()
    for finding in report.findings:
        text.append(finding.severity, style="bold red" if finding.severity == "fault" else "yellow")
        text.append(f"  {named(finding.ranks)}: {finding.message}\n")
    return text


def verdict(report: Report) -> str:
    """One line."""
    faults = sum(finding.severity == "fault" for finding in report.findings)
    warnings = len(report.findings) - faults
    processes = f"{len(report.nodes)} process{'es' if len(report.nodes) > 1 else ''}"
    also = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    if faults:
        return f"verdict: not fit to train, {faults} fault{'s' if faults > 1 else ''}{also} ({processes})"
    return f"verdict: healthy{also} ({processes})"


def _devices(nodes: Sequence[Node]) -> Table:
    table = _table("devices", ["ranks", "host", "device", "memory", "software"])
    alike: dict[tuple[str, ...], list[int]] = {}
    for node in nodes:
        device = node.origin.device
        name = f"{device['name']} ({device['type']}{', ' if device['architecture'] else ''}{device['architecture']})"
        software = ", ".join(f"{package} {version}" for package, version in node.origin.versions.items())
        alike.setdefault((node.host, name, f"{device['memory_bytes'] / 2**30:.1f} GiB", software), []).append(node.rank)
    for facts, ranks in alike.items():
        table.add_row(named(ranks).partition(" ")[2], *facts)
    return table


def _speeds(nodes: Sequence[Node]) -> Table:
    table = _table("speed of a device", ["", "median", "quartiles", "slowest rank"], right=1)
    for dtype in nodes[0].multiply:
        _speed(table, f"multiply {dtype}", "FLOP/s", {node.rank: node.multiply.get(dtype) for node in nodes})
    _speed(table, "memory", "B/s", {node.rank: node.bandwidth for node in nodes})
    return table


def _speed(table: Table, what: str, unit: str, by_rank: dict[int, Spread | None]) -> None:
    spreads = {rank: spread for rank, spread in by_rank.items() if spread is not None}
    slowest = min(spreads, key=lambda rank: spreads[rank].median)
    low, median, high = (
        statistics.median(getattr(spread, name) for spread in spreads.values())
        for name in ("lower_quartile", "median", "upper_quartile")
    )
    around = f"{low / median - 1:+.0%} {high / median - 1:+.0%}"
    table.add_row(what, _scaled(median, unit), around, f"{_scaled(spreads[slowest].median, unit)} ({slowest})")


def _scaled(value: float, unit: str) -> str:
    """`1.23 TFLOP/s`."""
    power = min(4, int(math.log10(max(value, 1.0)) // 3))
    return f"{value / 1000**power:.3g} {' kMGT'[power].strip()}{unit}"


def _kernels(nodes: Sequence[Node]) -> Table:
    dtypes = list(dict.fromkeys(result.dtype for result in nodes[0].kernels))
    table = _table("kernels, forward and backward: error against float64", ["kernel", "implementation", *dtypes])
    rows: dict[tuple[str, str], dict[str, list[KernelResult]]] = {}
    for result in (result for node in nodes for result in node.kernels):
        row = rows.setdefault((result.kernel, result.implementation), {})
        row.setdefault(result.dtype, []).append(result)
    for (kernel, implementation), row in rows.items():
        table.add_row(kernel, implementation, *(_kernel(row[dtype]) for dtype in dtypes))
    return table


def _kernel(results: Sequence[KernelResult]) -> str:
    """The worst that any rank saw."""
    if any(result.failure for result in results):
        return "[bold red]fails"
    worst = max(results, key=lambda result: result.error)
    text = f"{worst.error:.0e}, same bits"
    if not worst.error <= worst.tolerance:
        text = f"[bold red]{worst.error:.0e}[/], more than {worst.tolerance:.0e}"
    return text if all(result.repeats for result in results) else f"{worst.error:.0e}, [bold red]bits change"


def _collectives(nodes: Sequence[Node]) -> Table:
    table = _table("collectives", ["operation", "group", "right", "latency", "sends, a process"], right=3)
    by_call: dict[tuple[str, int], list[CollectiveResult]] = {}
    for node in nodes:
        for result in node.collectives:
            by_call.setdefault((result.operation, result.size), []).append(result)
    for (operation, size), results in by_call.items():
        latencies = [result.latency.median for result in results if result.latency]
        bandwidths = [result.bandwidth.median for result in results if result.bandwidth]
        table.add_row(
            operation,
            str(size),
            _yes(not any(result.failure for result in results)),
            f"{max(latencies) * 1e6:,.0f} µs" if latencies else "",
            _scaled(min(bandwidths), "B/s") if bandwidths else "",
        )
    return table


def _yes(good: bool) -> str:
    return "yes" if good else "[bold red]no"


def _table(title: str, columns: Sequence[str], right: int | None = None) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if right is not None and number >= right else "left")
    return table
