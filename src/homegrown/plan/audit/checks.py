"""What one reading of a claim comes to: which of its statements can be true together, and what they imply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from homegrown.plan.audit.claim import Claim, Reading
from homegrown.plan.audit.evidence import Evidence, Facts, Implied, Leaf, Structures, figure, gather
from homegrown.plan.audit.quantities import preference
from homegrown.plan.audit.relations import Relation
from homegrown.plan.audit.span import Span

Verdict = Literal["contradictory", "consistent", "cannot be decided"]
CONTRADICTORY: Verdict = "contradictory"
CONSISTENT: Verdict = "consistent"
UNDECIDED: Verdict = "cannot be decided"
VERDICTS = (CONSISTENT, CONTRADICTORY, UNDECIDED)

DECISIVE = 2.0
"""An implied interval wider than this factor would agree with too much for agreement to mean anything."""
OUTCOMES = (
    "pace_device",
    "rate",
    "utilisation",
    "device_time",
    "time",
    "energy",
    "power",
    "site_power",
    "cost",
    "price",
)
"""What a claim is asked to imply."""
_RATED = 1.005
"""How closely energy over device-hours must hit the rated power to have been calculated from it."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Statements against one another.

    Attributes:
        about: the figure that the check is told about. implied: what the others give for it.
        apart: the factor between the nearest figures of the two intervals; 1 where they meet.
        reason: why agreement would prove nothing; empty where it would.
        sums: parts of the run are added up, where otherwise figures are multiplied.
    """

    about: Leaf
    implied: Implied
    verdict: Verdict
    apart: float = 1.0
    reason: str = ""
    sums: bool = False

    @property
    def key(self) -> tuple[str, frozenset[str]]:
        """The same in every reading: which statements are compared."""
        return self.about.name, frozenset(self.statements)

    @property
    def statements(self) -> tuple[str, ...]:
        """Ids of the statements that take part."""
        return tuple(dict.fromkeys([*self.about.by, *self.implied.by]))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One reading with all that follows from it; `outcomes`: ways to each figure, by its name, the narrowest first."""

    reading: Reading
    evidence: Evidence
    checks: tuple[Check, ...]
    outcomes: Mapping[str, list[Implied]]

    @property
    def verdict(self) -> Verdict:
        """Of the reading as a whole. One statement that fits what is known says nothing for the others: it takes two
        that fit each other."""
        if any(check.verdict == CONTRADICTORY for check in self.checks):
            return CONTRADICTORY
        fit = (check for check in self.checks if check.verdict == CONSISTENT and not check.reason)
        return CONSISTENT if any(len(check.statements) > 1 for check in fit) else UNDECIDED


def examine(claim: Claim, reading: Reading, facts: Facts, structures: Structures) -> Case:
    """Everything that follows from one reading of a claim; `structures` keeps what readings have in common."""
    evidence = gather(claim, reading, facts, structures)
    calculated = _calculated(evidence, facts.rated_power(reading.basis))
    checks = [check for item in evidence.tests() if (check := _check(evidence, item, calculated))]
    checks += list(_sums(claim, evidence))
    outcomes = {
        name: ways
        for part in ("", *(part.name for part in claim.parts))
        for quantity in OUTCOMES
        if (ways := _ways(evidence, name := figure(quantity, part), part))
    }
    order = [CONTRADICTORY, CONSISTENT, UNDECIDED]
    checks.sort(key=lambda check: (order.index(check.verdict), bool(check.reason), len(check.implied.leaves)))
    return Case(reading=reading, evidence=evidence, checks=tuple(checks), outcomes=outcomes)


def _ways(evidence: Evidence, name: str, part: str) -> list[Implied]:
    """Ways to an outcome that rest on what is said, of a part on what is said of the part."""
    found = []
    for way in evidence.implied(name):
        stated = [leaf.statement for leaf in way.leaves if leaf.statement]
        if any(item.part == part for item in stated):
            found.append(way)
    return found


def _check(evidence: Evidence, relation: Relation, calculated: frozenset[str]) -> Check | None:
    """The verdict on what must hold between leaves; None where no statement takes part."""
    leaves = [evidence.leaves[name] for name in sorted(relation.names)]
    about = _about(leaves)
    if about is None:
        return None
    implied = evidence.solve(relation.solved(about.name))
    apart = about.possible.apart(implied.possible)
    reason = _hollow(about, implied, calculated)
    if apart > 1 and not reason:
        verdict = CONTRADICTORY
    elif _agrees(about, implied.likely):
        verdict = CONSISTENT
    else:
        verdict = UNDECIDED
    return Check(about=about, implied=implied, verdict=verdict, apart=apart, reason=reason)


def _agrees(about: Leaf, implied: Span) -> bool:
    """Whether what is implied confirms a statement, or stays within a limit."""
    if not about.by:
        return implied.high <= about.possible.high
    return implied.factor <= DECISIVE and about.likely.apart(implied) == 1.0


def _about(leaves: list[Leaf]) -> Leaf | None:
    """Which figure of a check it is told about: a limit that nature sets, or else the most telling statement."""
    if not any(leaf.by for leaf in leaves):
        return None
    limits = [leaf for leaf in leaves if not leaf.by and leaf.possible.low == 0 and leaf.figure.startswith("=util")]
    stated = [leaf for leaf in leaves if leaf.statement]
    told = limits or stated or [leaf for leaf in leaves if leaf.by]
    return min(told, key=lambda leaf: (preference(leaf.figure[1:].partition("@")[0]), leaf.name))


def _hollow(about: Leaf, implied: Implied, calculated: frozenset[str]) -> str:
    """Why agreement proves nothing, if so."""
    statements = {leaf.name: leaf.statement for leaf in (about, *implied.leaves) if leaf.statement}
    for item in statements.values():
        if item.computed and set(item.computed) <= statements.keys():
            return f"{item.id} was calculated from {', '.join(item.computed)}"
    for id_ in sorted(calculated & statements.keys()):
        if any(leaf.name == "known power" for leaf in implied.leaves):
            return f"{id_} is device-hours times the rated power of the device: nobody read a meter"
    return ""


def _calculated(evidence: Evidence, rated: float | None) -> frozenset[str]:
    """Statements of energy that are nothing but device-hours times rated power."""
    found = set()
    for way in evidence.implied("=power") if rated else []:
        kinds = {leaf.figure.partition("@")[0] for leaf in way.leaves}
        if kinds == {"=energy", "=device_time"} and all(leaf.statement for leaf in way.leaves):
            energy = next(leaf for leaf in way.leaves if leaf.figure.startswith("=energy"))
            close = Span(way.likely.low / _RATED, way.likely.value, way.likely.high * _RATED)
            if rated is not None and close.holds(rated):
                found.add(energy.name)
    return frozenset(found)


def _sums(claim: Claim, evidence: Evidence) -> Iterator[Check]:
    """What the parts of a run add up to, against what is said of all of it."""
    if not claim.whole:
        return
    for about in evidence.leaves.values():
        quantity, _, part = about.figure.partition("@")
        wanted = [f"{quantity}@{item.name}" for item in claim.parts]
        stated = {leaf.figure: leaf for leaf in evidence.leaves.values() if leaf.statement}
        if part or not about.statement or not about.kind.whole or not set(wanted) <= stated.keys():
            continue
        leaves = tuple(stated[name] for name in wanted)
        spans = [leaf.possible for leaf in leaves]
        total = Span(
            sum(span.low for span in spans), sum(span.value for span in spans), sum(span.high for span in spans)
        )
        apart = about.possible.apart(total)
        yield Check(
            about=about, implied=Implied(leaves, (1.0,) * len(leaves), 1.0, total, total),
            verdict=CONTRADICTORY if apart > 1 else CONSISTENT, apart=apart, sums=True,
        )  # fmt: skip
