"""An audit in words: sentences and rows that tables and pages are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from homegrown.plan.audit.audit import Audit, Choosing, Finding, Row
from homegrown.plan.audit.benchmarks import Comparison
from homegrown.plan.audit.checks import CONSISTENT, CONTRADICTORY, UNDECIDED, Case, Check, Verdict
from homegrown.plan.audit.claim import Claim, Statement
from homegrown.plan.audit.evidence import Implied, Leaf
from homegrown.plan.audit.quantities import GAP, KINDS, Kind
from homegrown.plan.audit.settle import Settling, stated
from homegrown.plan.audit.span import Span, union

MOST_ROWS = 12
"""Rows of a check that are told one by one; the rest are summed up by verdict."""
_ONLY_IF_STATED = {"power": "energy", "price": "cost"}
"""Outcomes that are worth telling only where the claim states the other."""
_AS_STATED = ("device_time", "time", "pace_device", "price")
"""Outcomes that are not told where the claim states them as closely."""
_VERDICTS = {
    CONSISTENT: "what can be compared agrees",
    CONTRADICTORY: "not all that is stated can be true",
    UNDECIDED: "nothing that is stated puts it to a test",
}
_COUNTED = {CONTRADICTORY: "contradictory", CONSISTENT: "consistent", UNDECIDED: "undecided"}


@dataclass(frozen=True, kw_only=True)
class Told:
    """An outcome in words: as usually read, over all readings, and from what."""

    figure: str
    title: str
    usual: str
    everywhere: str
    formula: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a check in words."""

    reading: str
    stated: str
    implied: str
    verdict: Verdict
    apart: float


def headline(audit: Audit) -> list[str]:
    """What the audit comes to, in a few sentences."""
    if not audit.cases:
        return ["Only benchmark scores are claimed."]
    every, usual = len(audit.cases), _VERDICTS[audit.usual]
    if every == 1:
        return [f"{audit.usual.capitalize()}: {usual}.", *_blame(audit)]
    counts = [(verdict, audit.readings(verdict)) for verdict in (CONSISTENT, CONTRADICTORY, UNDECIDED)]
    if any(count == every for _, count in counts):
        return [f"{audit.usual.capitalize()} under each of {every} readings: {usual}.", *_blame(audit)]
    told = ", ".join(f"{count} {_COUNTED[verdict]}" for verdict, count in counts if count)
    refuted = [_choice(audit.claim, item) for item in audit.choosings if item.verdict == CONTRADICTORY]
    always = [f"Contradictory whatever else is assumed, if it is read so: {'; '.join(refuted)}."] if refuted else []
    first = f"As usually read, {audit.usual}: {usual}. Of {every} readings: {told}."
    return [first, *always, *_blame(audit)]


def _choice(claim: Claim, choosing: Choosing) -> str:
    ambiguity = next(item for item in claim.ambiguities if item.name == choosing.ambiguity)
    return f"{ambiguity.name}: {next(item.says for item in ambiguity.choices if item.name == choosing.choice)}"


def _blame(audit: Audit) -> list[str]:
    if not audit.blame or not audit.readings(CONTRADICTORY):
        return []
    return [f"No contradiction is left if one of these does not stand: {', '.join(audit.blame)}."]


def outcomes(audit: Audit) -> list[Told]:
    """What the claim implies, figure by figure."""
    if not audit.cases:
        return []
    found = []
    for name, everywhere in audit.outcomes.items():
        quantity, _, part = name[1:].partition("@")
        case = next(case for case in audit.cases if name in case.outcomes)
        if part and (f"={quantity}" in audit.outcomes or quantity not in ("rate", "utilisation")):
            continue
        if not _worth(audit, case, quantity, name):
            continue
        way = case.outcomes[name][0]
        title = _titled(audit.claim, KINDS[quantity].title, part)
        found.append(
            Told(
                figure=name, title=title, usual=guess(KINDS[quantity], way.likely),
                everywhere=KINDS[quantity].span(everywhere), formula=formula(way),
            )
        )  # fmt: skip
    return found


def _worth(audit: Audit, case: Case, quantity: str, name: str) -> bool:
    other = _ONLY_IF_STATED.get(quantity)
    if other and not any(item.quantity == other for item in audit.claim.statements):
        return False
    return not (quantity in _AS_STATED and stated(case, name))


def _titled(claim: Claim, title: str, part: str) -> str:
    return next((f"{title}, {item.title}" for item in claim.parts if item.name == part), title)


def guess(kind: Kind, span: Span) -> str:
    """A best guess with its interval."""
    told, around = kind.told(span.value), kind.span(span)
    if around == told or span.factor < 1 + 5e-3:
        return told
    unit = "" if kind.dimension == "money" else GAP + told.partition(GAP)[2]  # an M there is part of the number
    return f"{told} ({around.removesuffix(unit)})"


def formula(implied: Implied) -> str:
    """From what leaves a figure follows, as a product."""
    over = [_name(leaf) for leaf, power in zip(implied.leaves, implied.powers, strict=True) if power > 0]
    under = [_name(leaf) for leaf, power in zip(implied.leaves, implied.powers, strict=True) if power < 0]
    top = " × ".join(over) or "1"
    return f"{top} ÷ ({' × '.join(under)})" if len(under) > 1 else f"{top} ÷ {under[0]}" if under else top


def _name(leaf: Leaf) -> str:
    return leaf.name.removeprefix("known ").partition("@")[0].replace("_", " ")


def more(finding: Finding) -> str:
    """How many other checks of the same figure come to the same."""
    return f"and {finding.alike} more way{'s' if finding.alike > 1 else ''}" if finding.alike else ""


def about(claim: Claim, check: Check) -> str:
    """What a check is about."""
    leaf = check.about
    if leaf.statement is None:
        return f"limit of {leaf.kind.title}"
    title = leaf.kind.title
    return _titled(claim, title, leaf.figure.partition("@")[2])


def against(check: Check) -> str:
    """With what a check compares a figure."""
    leaves = check.implied.leaves
    if len(leaves) == 1 and not leaves[0].by:
        return leaves[0].says
    return " + ".join(_name(leaf) for leaf in leaves) if check.sums else formula(check.implied)


def lines(claim: Claim, finding: Finding) -> list[Line]:
    """Rows of a check: one by one if they are few, else those that agree, and the others summed up by verdict."""
    rows = list(finding.rows)
    if len(rows) <= MOST_ROWS:
        return [_line(row) for row in rows]
    agreeing = [row for row in rows if row.check.verdict == CONSISTENT]
    single = agreeing if len(agreeing) <= MOST_ROWS else []
    told = [_line(row) for row in single]
    for verdict in (CONTRADICTORY, UNDECIDED, CONSISTENT):
        group = [row for row in rows if row.check.verdict == verdict and row not in single]
        if group:
            told.append(_summed(group, verdict, len(rows)))
    return told


def _line(row: Row) -> Line:
    check = row.check
    kind = check.about.kind
    return Line(
        reading=choices(row.choices), stated=kind.span(check.about.possible), implied=guess(kind, check.implied.likely),
        verdict=check.verdict, apart=check.apart,
    )  # fmt: skip


def _summed(group: list[Row], verdict: Verdict, every: int) -> Line:
    kind = group[0].check.about.kind
    return Line(
        reading=f"{len(group)} of {every} readings",
        stated=kind.span(union(row.check.about.possible for row in group)),
        implied=kind.span(union(row.check.implied.likely for row in group)),
        verdict=verdict,
        apart=min(row.check.apart for row in group),
    )


def choices(chosen: Mapping[str, str]) -> str:
    """A reading in words."""
    return ", ".join(f"{name}: {choice}" for name, choice in chosen.items()) or "any"


def settled(items: Iterable[Settling], most: int = 3) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """For each outcome its title, its interval, and what would narrow it to what, the most telling first."""
    found: dict[str, tuple[str, str, list[tuple[str, str]]]] = {}
    for item in items:
        kind = KINDS[item.outcome[1:]]
        entry = found.setdefault(item.outcome, (kind.title, kind.span(item.before), []))
        if len(entry[2]) < most:
            entry[2].append((item.unknown, f"a factor of {item.before.factor:.3g} would become {item.factor:.3g}"))
    return list(found.values())


def wanted(audit: Audit) -> list[tuple[str, str]]:
    """Statements that nothing tests, and what would."""
    told = {item.id: item for item in audit.claim.statements}
    found = []
    for item in audit.untested:
        would = ", ".join(KINDS[quantity].title for quantity in item.would)
        found.append((told[item.statement].says, would or "no single figure"))
    return found


def compared(pair: Comparison) -> str:
    """A comparison of two models in a sentence."""
    points = f"{abs(pair.gap) * 100:.1f} points {'above' if pair.gap >= 0 else 'below'}"
    error = f"± {pair.error * 100:.1f} unpaired, {pair.paired * 100:.1f} if strongly paired"
    return f"{points} {pair.second.score.model} ({error})"


def pitfalls(audit: Audit) -> list[tuple[str, list[str]]]:
    """What scores on the claim's benchmarks may hide, benchmark by benchmark."""
    found = {item.benchmark.title: item.benchmark.pitfalls for item in audit.scores}
    return [(title, told) for title, told in found.items() if told]


def sources(claim: Claim) -> list[str]:
    """Where the statements were read, each once, in order."""
    return list(dict.fromkeys(f"{item.source}, {item.date}".strip(", ") for item in claim.statements))


def source_of(claim: Claim, statement: Statement) -> str:
    """How well a statement is known, and the number of its source in `sources`."""
    number = sources(claim).index(f"{statement.source}, {statement.date}".strip(", ")) + 1
    return f"{statement.mark} [{number}]"


def multiple(pairs: Iterable[Comparison]) -> str:
    """What so many comparisons mean; empty for one or none."""
    number = len(list(pairs))
    if number < 2:
        return ""
    return (
        f"{number} comparisons at once: among equal models {number * 0.05:.1f} of them would look different at the 5 % "
        "level by chance; the p-values are adjusted for that (Holm)."
    )
