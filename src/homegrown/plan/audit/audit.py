"""A claim, audited: what it implies, what in it contradicts what, under which reading, and what would settle it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from homegrown.plan.audit.benchmarks import Benchmark, Comparison, Scored, compare, scored
from homegrown.plan.audit.checks import (
    CONSISTENT,
    CONTRADICTORY,
    UNDECIDED,
    Case,
    Check,
    Verdict,
    examine,
)
from homegrown.plan.audit.claim import Claim
from homegrown.plan.audit.evidence import Facts, Structures
from homegrown.plan.audit.settle import Settling, settlings, testable
from homegrown.plan.audit.span import Span, union

_DIGITS = 4
"""Significant digits by which results of two readings are told apart."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a check comes to under some readings: those choices that matter to it, by ambiguity."""

    choices: Mapping[str, str]
    check: Check


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check under every reading; `alike` other checks of the same figure come to the same."""

    rows: tuple[Row, ...]
    alike: int = 0

    @property
    def verdict(self) -> Verdict | None:
        """The same under every reading; None if some contradict and others do not."""
        found = {row.check.verdict for row in self.rows}
        if len(found) == 1:
            return found.pop()
        return None if CONTRADICTORY in found else UNDECIDED

    @property
    def check(self) -> Check:
        """Under the first reading: what is compared with what is the same in all of them."""
        return self.rows[0].check


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """One choice of an ambiguity: in how many combinations with all others the claim comes to which verdict."""

    ambiguity: str
    choice: str
    verdicts: Mapping[Verdict, int]
    outcomes: Mapping[str, Span]

    @property
    def verdict(self) -> Verdict:
        """The best that can be made of the claim with this choice: it is refuted only if every combination is."""
        return next(verdict for verdict in (CONSISTENT, UNDECIDED, CONTRADICTORY) if self.verdicts.get(verdict))


@dataclass(frozen=True, kw_only=True)
class Untested:
    """A statement that nothing else bears on, and the figures any one of which would put it to a test."""

    statement: str
    would: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything that was found.

    Attributes:
        findings: the worst first. choosings: by ambiguity. outcomes: over all readings, by name of the figure.
        blame: statements that take part in every contradiction of some reading: without any one of them there is none.
    """

    claim: Claim
    cases: tuple[Case, ...]
    findings: tuple[Finding, ...]
    choosings: tuple[Choosing, ...]
    outcomes: Mapping[str, Span]
    settlings: tuple[Settling, ...]
    untested: tuple[Untested, ...]
    blame: tuple[str, ...]
    scores: tuple[Scored, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def verdict(self) -> Verdict:
        """The best that can be made of the claim: contradictory only if it is so under every reading."""
        found = {case.verdict for case in self.cases} or {UNDECIDED}
        return next(verdict for verdict in (CONSISTENT, UNDECIDED, CONTRADICTORY) if verdict in found)

    @property
    def usual(self) -> Verdict:
        """Of the usual reading: the first choice of every ambiguity."""
        return self.cases[0].verdict if self.cases else UNDECIDED

    def readings(self, verdict: Verdict) -> int:
        """Number of readings that come to a verdict."""
        return sum(case.verdict == verdict for case in self.cases)


def audit(claim: Claim, facts: Facts, benchmarks: Mapping[str, Benchmark]) -> Audit:
    """Look at a claim under every reading.

    Raises:
        ConfigError: it names a chip, model or benchmark that is not known.
    """
    structures: Structures = {}
    readings = claim.readings() if claim.statements else ()
    cases = tuple(examine(claim, reading, facts, structures) for reading in readings)
    found = tuple(_findings(claim, cases))
    marks = tuple(scored(score, benchmarks) for score in claim.scores)
    return Audit(
        claim=claim,
        cases=cases,
        findings=found,
        choosings=tuple(_choosings(claim, cases)),
        outcomes=_outcomes(cases),
        settlings=tuple(settlings(claim, cases)),
        untested=tuple(_untested(cases)),
        blame=_blame(cases),
        scores=marks,
        comparisons=tuple(compare(marks)),
    )


def _findings(claim: Claim, cases: Iterable[Case]) -> list[Finding]:
    """One for each check, told apart by the readings that matter to it."""
    grouped: dict[object, list[tuple[Case, Check]]] = defaultdict(list)
    for case in cases:
        exact = sorted(case.checks, key=lambda check: check.implied.likely.factor)
        for check in {check.key: check for check in reversed(exact)}.values():
            grouped[check.key].append((case, check))
    found = [Finding(rows=tuple(_rows(claim, group))) for group in grouped.values()]
    order = {CONTRADICTORY: 0, None: 1, CONSISTENT: 2, UNDECIDED: 3}
    found.sort(key=lambda item: (order[item.verdict], bool(item.check.reason), item.check.implied.likely.factor))
    return _telling(found)


def _telling(findings: list[Finding]) -> list[Finding]:
    """One for each figure and verdict, the most exact; undecided ones only of figures that nothing else tests."""
    kept: dict[object, list[Finding]] = defaultdict(list)
    tested = {item.check.about.name for item in findings if item.verdict != UNDECIDED}
    for item in findings:
        about, reason = item.check.about.name, item.check.reason
        if reason or item.verdict != UNDECIDED or about not in tested:
            kept[about, item.verdict, reason].append(item)
    return [replace(group[0], alike=len(group) - 1) for group in kept.values()]


def _rows(claim: Claim, group: list[tuple[Case, Check]]) -> list[Row]:
    """The results of a check, once for each combination of choices that matters to it."""
    results = {tuple(case.reading.choices.values()): _result(check) for case, check in group}
    names = [ambiguity.name for ambiguity in claim.ambiguities]
    matter = [place for place in range(len(names)) if _matters(place, results)]
    rows: dict[tuple[str, ...], Row] = {}
    for case, check in group:
        choices = tuple(case.reading.choices.values())
        key = tuple(choices[place] for place in matter)
        rows.setdefault(key, Row(choices={names[place]: choices[place] for place in matter}, check=check))
    return list(rows.values())


def _matters(place: int, results: Mapping[tuple[str, ...], object]) -> bool:
    """Whether two readings that differ in one choice only differ in the result."""
    others: dict[tuple[str, ...], object] = {}
    for choices, result in results.items():
        rest = (*choices[:place], *choices[place + 1 :])
        if others.setdefault(rest, result) != result:
            return True
    return False


def _result(check: Check) -> object:
    spans = (check.about.possible, check.implied.likely)
    ends = [f"{end:.{_DIGITS}g}" for span in spans for end in (span.low, span.value, span.high)]
    return check.verdict, check.reason, tuple(ends)


def _choosings(claim: Claim, cases: tuple[Case, ...]) -> list[Choosing]:
    found = []
    for ambiguity in claim.ambiguities:
        for choice in ambiguity.choices:
            own = [case for case in cases if case.reading.choices[ambiguity.name] == choice.name]
            verdicts: dict[Verdict, int] = defaultdict(int)
            for case in own:
                verdicts[case.verdict] += 1
            found.append(
                Choosing(ambiguity=ambiguity.name, choice=choice.name, verdicts=dict(verdicts), outcomes=_outcomes(own))
            )
    return found


def _outcomes(cases: Iterable[Case]) -> dict[str, Span]:
    spans: dict[str, list[Span]] = defaultdict(list)
    for case in cases:
        for name, implied in case.outcomes.items():
            spans[name].append(implied[0].likely)
    return {name: union(found) for name, found in spans.items()}


def _untested(cases: tuple[Case, ...]) -> list[Untested]:
    """Statements that no reading puts to a test, and what would."""
    if not cases:
        return []
    decided = [check for case in cases for check in case.checks if check.verdict != UNDECIDED and not check.reason]
    tested = {id_ for check in decided for id_ in check.statements}
    left = [item.id for item in cases[0].reading.statements if item.id not in tested and item.quantity != "context"]
    would = testable(cases[0].evidence, left)
    return [Untested(statement=id_, would=would[id_]) for id_ in left]


def _blame(cases: Iterable[Case]) -> tuple[str, ...]:
    """Statements that are in every contradiction of one reading that has any, over all readings."""
    blamed: dict[str, None] = {}
    for case in cases:
        sets = [set(check.statements) for check in case.checks if check.verdict == CONTRADICTORY and not check.reason]
        if sets:
            blamed |= dict.fromkeys(sorted(set.intersection(*sets)))
    return tuple(blamed)
