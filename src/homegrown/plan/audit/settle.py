"""The value of information: which one figure, if it were known, would narrow what the claim implies the most."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from homegrown.plan.audit.checks import Case
from homegrown.plan.audit.claim import Claim
from homegrown.plan.audit.evidence import Evidence, Leaf
from homegrown.plan.audit.quantities import KINDS
from homegrown.plan.audit.relations import Relation
from homegrown.plan.audit.span import Span, union

ASKED = ("utilisation", "energy", "cost", "device_time")
"""Outcomes that are worth settling."""
PUBLISHED = ("time", "device_time", "pace", "devices", "tokens", "active", "rate", "energy", "availability", "peak")
"""Figures that the maker of a model could simply state."""
_NARROWER = 0.97
"""A figure is told of only if knowing it leaves less than this share of the doubt (as a logarithm)."""


@dataclass(frozen=True, kw_only=True)
class Settling:
    """What would become of an outcome if one thing were known.

    Attributes:
        outcome: name of the figure.
        before: its interval over all readings.
        unknown: what would have to be known, in words; `key`: the ambiguity's or leaf's name.
        factor: high over low that would remain on average.
    """

    outcome: str
    before: Span
    key: str
    unknown: str
    factor: float

    @property
    def gain(self) -> float:
        """Share of the doubt (logarithm of high over low) that knowing it removes."""
        doubt = math.log(self.before.factor)
        return 1 - math.log(self.factor) / doubt if doubt else 0.0


def settlings(claim: Claim, cases: Iterable[Case]) -> list[Settling]:
    """For each outcome, what would narrow it, the most telling first."""
    found: list[Settling] = []
    held = list(cases)
    for outcome in (f"={quantity}" for quantity in ASKED):
        asked = [case for case in held if outcome in case.outcomes]
        if asked:
            found += sorted(_of(claim, outcome, asked), key=lambda item: item.factor)
    return found


def _of(claim: Claim, outcome: str, cases: list[Case]) -> list[Settling]:
    before = union(case.outcomes[outcome].likely for case in cases)
    if not 1.02 < before.factor < math.inf:
        return []
    made = [
        Settling(outcome=outcome, before=before, key=ambiguity.name, unknown=ambiguity.question, factor=factor)
        for ambiguity in claim.ambiguities
        if (factor := _by_choice(outcome, cases, ambiguity.name)) is not None
    ]
    for leaf in _unknowns(cases):
        collapsed = [_narrowest(case, outcome, leaf) for case in cases]
        factor = union(collapsed).factor
        made.append(Settling(outcome=outcome, before=before, key=leaf.name, unknown=_words(leaf), factor=factor))
    return [item for item in made if math.log(item.factor) < _NARROWER * math.log(before.factor)]


def _by_choice(outcome: str, cases: list[Case], ambiguity: str) -> float | None:
    """What remains on average over the choices, as a factor; None if there is one choice only."""
    spans: Mapping[str, list[Span]] = defaultdict(list)
    for case in cases:
        spans[case.reading.choices[ambiguity]].append(case.outcomes[outcome].likely)
    if len(spans) < 2:
        return None
    return math.exp(sum(math.log(union(group).factor) for group in spans.values()) / len(spans))


def _unknowns(cases: list[Case]) -> list[Leaf]:
    """Leaves that are in doubt in some reading, each once."""
    leaves = {name: leaf for case in cases for name, leaf in case.evidence.leaves.items() if leaf.likely.factor > 1.005}
    return list(leaves.values())


def _narrowest(case: Case, outcome: str, known: Leaf) -> Span:
    own = case.evidence.leaves.get(known.name)
    if own is None or own.figure == outcome:
        return case.outcomes[outcome].likely
    ways = case.evidence.implied(outcome, {own.name: own.likely.collapsed})
    return next((way.likely for way in ways if way.by), case.outcomes[outcome].likely)


def _words(leaf: Leaf) -> str:
    return f"{leaf.kind.title}, more exactly" if leaf.statement else leaf.kind.title


def testable(evidence: Evidence, statement: str) -> list[str]:
    """Figures any one of which, once published, would put a statement to a test that it has none of now."""
    stated = {leaf.figure for leaf in evidence.leaves.values()}
    found = []
    for quantity in PUBLISHED:
        name = f"={quantity}"
        if name in stated:
            continue
        leaf = Leaf(
            name="published", figure=name, kind=KINDS[quantity], likely=Span.exactly(1.0), possible=Span.exactly(1.0),
            says="", by=("published",),
        )  # fmt: skip
        tie = Relation(((name, Fraction(-1)), (leaf.name, Fraction(1))), 1.0)
        more = Evidence({**evidence.leaves, leaf.name: leaf}, (*evidence.relations, tie))
        if any({statement, leaf.name} <= item.names for item in more.tests()):
            found.append(quantity)
    return found
