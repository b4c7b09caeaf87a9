"""The value of information: which one figure, if it were known, would narrow what the claim implies the most."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from homegrown.plan.audit.checks import Case
from homegrown.plan.audit.claim import Claim
from homegrown.plan.audit.evidence import Evidence, Leaf, Structure, tie
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
        asked = [case for case in held if outcome in case.outcomes and not stated(case, outcome)]
        if asked:
            found += sorted(_of(claim, outcome, asked), key=lambda item: item.factor)
    return found


def _of(claim: Claim, outcome: str, cases: list[Case]) -> list[Settling]:
    before = union(case.outcomes[outcome][0].likely for case in cases)
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


def stated(case: Case, outcome: str) -> bool:
    """Whether the claim itself gives the figure, as closely as it could be derived."""
    implied = case.outcomes[outcome][0].likely.factor
    leaves = case.evidence.leaves.values()
    return any(leaf.figure == outcome and leaf.statement and leaf.likely.factor <= implied for leaf in leaves)


def _by_choice(outcome: str, cases: list[Case], ambiguity: str) -> float | None:
    """What remains on average over the choices, as a factor; None if there is one choice only."""
    spans: Mapping[str, list[Span]] = defaultdict(list)
    for case in cases:
        spans[case.reading.choices[ambiguity]].append(case.outcomes[outcome][0].likely)
    if len(spans) < 2:
        return None
    return math.exp(sum(math.log(union(group).factor) for group in spans.values()) / len(spans))


def _unknowns(cases: list[Case]) -> list[Leaf]:
    """Leaves that are in doubt in some reading, each once."""
    leaves = {name: leaf for case in cases for name, leaf in case.evidence.leaves.items() if leaf.likely.factor > 1.005}
    return list(leaves.values())


def _narrowest(case: Case, outcome: str, known: Leaf) -> Span:
    """The interval of an outcome if a leaf were known for certain."""
    return min((way.knowing(known.name) for way in case.outcomes[outcome]), key=lambda span: span.factor)


def _words(leaf: Leaf) -> str:
    return f"{leaf.kind.title}, more exactly" if leaf.statement else leaf.kind.title


def testable(evidence: Evidence, statements: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For statements that nothing tests: figures any one of which would put them to a test once it is published."""
    stated = {leaf.figure for leaf in evidence.leaves.values()}
    found: dict[str, tuple[str, ...]] = dict.fromkeys(statements, ())
    for quantity in PUBLISHED if found else ():
        name = f"={quantity}"
        if name in stated:
            continue
        more = Structure((*evidence.structure.relations, tie("published", name)))
        tests = [item.names for item in more.between(frozenset(evidence.leaves) | {"published"})]
        for id_ in found:
            if any({id_, "published"} <= names for names in tests):
                found[id_] = (*found[id_], quantity)
    return found
