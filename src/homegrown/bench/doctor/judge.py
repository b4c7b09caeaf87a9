"""From what the processes found to what is wrong, and with which of them."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from homegrown.bench.doctor.report import Finding, Node, Report, named
from homegrown.bench.record import Spread
from homegrown.config import UserError

SLOW = 0.8
"""A rank below this share of the median of its equals is reported as slow."""


def judge(nodes: Sequence[Node], unreachable: str = "") -> list[Finding]:
    """Faults and warnings, faults first.

    Args:
        nodes: what the processes found.
        unreachable: why they could not be brought together; empty if they could.
    """
    findings = [*_different_software(nodes), *_different_bits(nodes), *_slow(nodes)]
    if unreachable:
        findings.append(_fault([nodes[0].rank], f"what the other ranks found could not be collected: {unreachable}"))
    faults = _by_message(nodes, lambda node: [*_kernel_faults(node), *_collective_faults(node)])
    findings += [_fault(ranks, message) for message, ranks in faults.items()]
    unsupported = _by_message(nodes, lambda node: [*node.unsupported.values()])
    findings += [Finding(severity="warning", ranks=ranks, message=message) for message, ranks in unsupported.items()]
    return _sorted(findings)


def compare(report: Report, earlier: Report, where: str) -> Report:
    """The report with a fault added for every rank whose kernels have other bits than an earlier report says.

    Args:
        report: of now.
        earlier: of the same kind of device with the same software, thought sound.
        where: the earlier report's name, for messages.

    Raises:
        UserError: the earlier report has no such device, or examined with other inputs.
    """
    if report.quick != earlier.quick:
        other = "with --quick, and this one without" if earlier.quick else "without --quick, and this one with it"
        raise UserError(f"{where}: made {other}; only like can be compared")
    findings = [*report.findings]
    for node in report.nodes:
        equal = next((other for other in earlier.nodes if _comparable(node, other)), None)
        if equal is None:
            raise UserError(
                f"{where}: has no {node.origin.device['name']} with torch {node.origin.versions['torch']} and "
                f"{node.origin.threads} threads; only equals are to have equal bits"
            )
        right = _digests(equal)
        wrong = [name for name, digest in _digests(node).items() if right.get(name, digest) != digest]
        if wrong:
            findings.append(_fault([node.rank], f"computes other bits than {where} says: {_few(wrong)}"))
    return dataclasses.replace(report, findings=_sorted(findings))


def _comparable(one: Node, two: Node) -> bool:
    same_threads = one.origin.threads == two.origin.threads
    return one.kind == two.kind and one.origin.versions == two.origin.versions and same_threads


def _digests(node: Node) -> dict[str, str]:
    return {result.name: result.digest for result in node.kernels if result.digest}


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (finding.severity != "fault", finding.ranks))


def _fault(ranks: list[int], message: str) -> Finding:
    return Finding(severity="fault", ranks=ranks, message=message)


def _kernel_faults(node: Node) -> Iterator[str]:
    for result in node.kernels:
        if result.failure:
            yield f"kernel {result.name} does not run: {result.failure}"
        elif not result.repeats:
            yield f"kernel {result.name} does not repeat its bits"
        elif not result.error <= result.tolerance:
            yield f"kernel {result.name} is off by {result.error:.1e}, more than {result.tolerance:.0e}"


def _collective_faults(node: Node) -> Iterator[str]:
    for result in node.collectives:
        if result.failure:
            yield f"{result.operation} among {result.size}: {result.failure}"


def _different_software(nodes: Sequence[Node]) -> Iterator[Finding]:
    versions = {node.rank: node.origin.versions for node in nodes}
    for package in sorted({name for found in versions.values() for name in found}):
        ranks = _by_value({rank: found.get(package, "none") for rank, found in versions.items()})
        if len(ranks) > 1:
            each = ", ".join(f"{version} on {named(holders)}" for version, holders in ranks.items())
            yield _fault(_minority(ranks), f"{package} differs: {each}")


def _different_bits(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Equals that compute other bits: the few are named, for most devices are sound."""
    for equals in _kinds(nodes):
        digests = {node.rank: _digests(node) for node in equals}
        deviating: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name in _digests(equals[0]):
            ranks = _by_value({rank: found[name] for rank, found in digests.items() if name in found})
            if len(ranks) > 1:
                deviating[tuple(_minority(ranks))].append(name)
        for few, names in deviating.items():
            yield _fault([*few], f"other bits than the rest of {len(equals)} equal devices: {_few(names)}")


def _slow(nodes: Sequence[Node]) -> Iterator[Finding]:
    for equals in _kinds(nodes):
        speeds = {f"multiplies {dtype}": [node.multiply.get(dtype) for node in equals] for dtype in equals[0].multiply}
        speeds["moves memory"] = [node.bandwidth for node in equals]
        for what, spreads in speeds.items():
            yield from _slow_at(what, equals, spreads)


def _slow_at(what: str, equals: Sequence[Node], spreads: Sequence[Spread | None]) -> Iterator[Finding]:
    medians = {node.rank: spread.median for node, spread in zip(equals, spreads, strict=True) if spread}
    usual = statistics.median(medians.values())
    for rank, median in medians.items():
        if median < SLOW * usual:
            yield Finding(
                severity="warning", ranks=[rank], message=f"{what} at {median / usual:.0%} of its equals' speed"
            )


def _kinds(nodes: Sequence[Node]) -> list[list[Node]]:
    """Nodes of equal devices together."""
    kinds: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in nodes:
        kinds[node.kind].append(node)
    return list(kinds.values())


def _by_value(values: dict[int, str]) -> dict[str, list[int]]:
    """Ranks by what they have."""
    ranks: dict[str, list[int]] = defaultdict(list)
    for rank, value in values.items():
        ranks[value].append(rank)
    return ranks


def _by_message(nodes: Sequence[Node], messages: Callable[[Node], Sequence[str]]) -> dict[str, list[int]]:
    """Ranks by what there is to say of them."""
    ranks: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        for message in messages(node):
            ranks[message].append(node.rank)
    return ranks


def _minority(ranks: dict[str, list[int]]) -> list[int]:
    """All ranks but those that agree with the most; all of them where no value has more than half."""
    total = sum(map(len, ranks.values()))
    most = max(ranks.values(), key=len)
    return sorted(
        rank for holders in ranks.values() if holders is not most or 2 * len(most) <= total for rank in holders
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
