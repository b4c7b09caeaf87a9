"""An audit for the terminal: tables that a reader who was not there can follow."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from homegrown.plan.audit import words
from homegrown.plan.audit.audit import Audit
from homegrown.plan.audit.checks import CONSISTENT, CONTRADICTORY, UNDECIDED
from homegrown.plan.audit.claim import Claim
from homegrown.plan.audit.known import Known, counting
from homegrown.plan.audit.quantities import KINDS

_STYLES = {
    CONTRADICTORY: "bold red", CONSISTENT: "green", UNDECIDED: "yellow",
    "different": "green", "a tie": "yellow",
}  # fmt: skip


def tables(audit: Audit, known: Known) -> Iterator[RenderableType]:
    """Everything there is to say, part by part."""
    claim = audit.claim
    yield Text(claim.title, style="bold")
    yield Text(" ".join(filter(None, [f"Claimed by {claim.who}." if claim.who else "", claim.about])))
    yield Padding(Text("\n".join(words.headline(audit)), style=_STYLES[audit.usual]), (1, 0))
    if claim.statements:
        yield _said(claim)
    if audit.cases:
        yield _implied(audit, known)
        yield _fits(audit)
        if claim.ambiguities:
            yield _readings(audit)
        if audit.settlings:
            yield _settling(audit)
        if audit.untested:
            yield _untested(audit)
    if audit.scores:
        yield from _scores(audit)


def listing(claims: list[Claim]) -> Table:
    """Names and titles of claims."""
    table = _table("Shipped claims", ("claim", "what it says"))
    for claim in claims:
        table.add_row(claim.name, claim.title)
    return table


def _table(title: str, columns: tuple[str, ...], caption: str = "") -> Table:
    table = Table(title=title, caption=Text(caption) if caption else None, title_justify="left", caption_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str | Text, end: bool = False) -> None:
    """Cells as they are: what a claim's file says is text, never markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells), end_section=end)


def _said(claim: Claim) -> Table:
    table = _table(
        "What is said",
        ("statement", "figure", "in our words", "source"),
        "\n".join(
            [
                "A: read in a primary source, A-: through a copy, B: secondary, C: press",
                *(f"[{number}] {source}" for number, source in enumerate(words.sources(claim), 1)),
            ]
        ),
    )
    for item in claim.statements:
        _row(table, item.id, item.text, item.says, words.source_of(claim, item))
    return table


def _implied(audit: Audit, known: Known) -> Table:
    basis = audit.cases[0].reading.basis
    device = known.title(basis)
    length = f"FLOPs: {counting(basis)}" if basis.sequence else "FLOPs: six per active parameter, and attention"
    over = len(audit.cases)
    table = _table(
        "What that implies",
        ("figure", "as usually read", f"over all {over} readings" if over > 1 else "interval", "from"),
        "; ".join(filter(None, [device, length, "recomputation left out"])),
    )
    for told in words.outcomes(audit):
        _row(table, told.title, told.usual, told.everywhere, told.formula)
    return table


def _fits(audit: Audit) -> Table:
    table = _table("What fits what", ("figure", "reading", "stated", "the rest implies", "verdict"))
    for finding in audit.findings:
        check = finding.check
        title = f"{words.about(audit.claim, check)}\nagainst {words.against(check)}"
        title += f"\n({words.more(finding)})" if finding.alike else ""
        rows = words.lines(audit.claim, finding)
        for number, row in enumerate(rows):
            verdict = Text(row.verdict, style=_STYLES[row.verdict])
            if row.apart > 1 and row.verdict == CONTRADICTORY:
                verdict.append(f", a factor of {row.apart:.3g} apart")
            if check.reason:
                verdict.append(f": {check.reason}", style="yellow")
            last = number == len(rows) - 1
            _row(table, "" if number else title, row.reading, row.stated, row.implied, verdict, end=last)
    return table


def _readings(audit: Audit) -> Table:
    table = _table(
        "How it can be read",
        ("reading", "verdict", "utilisation", "energy", "cost"),
        "each choice with every combination of the others; utilisation is of the peak of the choice's own device",
    )
    for ambiguity in audit.claim.ambiguities:
        rows = [item for item in audit.choosings if item.ambiguity == ambiguity.name]
        for number, item in enumerate(rows):
            says = next(choice.says for choice in ambiguity.choices if choice.name == item.choice)
            verdict = Text(item.verdict, style=_STYLES[item.verdict])
            every, wrong = sum(item.verdicts.values()), item.verdicts.get(CONTRADICTORY, 0)
            if 0 < wrong < every:
                verdict.append(f" ({wrong} of {every} contradictory)")
            cells = [
                KINDS[name].span(item.outcomes[f"={name}"]) if f"={name}" in item.outcomes else ""
                for name in ("utilisation", "energy", "cost")
            ]
            _row(table, f"{item.choice}: {says}", verdict, *cells, end=number == len(rows) - 1)
    return table


def _settling(audit: Audit) -> Table:
    table = _table("What would settle it", ("figure", "now", "if this were known", "then"))
    for title, now, unknowns in words.settled(audit.settlings):
        for number, (unknown, then) in enumerate(unknowns):
            head = ("", "") if number else (title, now)
            _row(table, *head, unknown, then, end=number == len(unknowns) - 1)
    return table


def _untested(audit: Audit) -> Table:
    table = _table("What nothing puts to a test", ("statement", "any one of these would"))
    for says, would in words.wanted(audit):
        _row(table, says, would)
    return table


def _scores(audit: Audit) -> Iterator[RenderableType]:
    table = _table(
        "Scores", ("benchmark", "model", "score", "95 % interval", "against the claim's own"),
        "interval: Wilson, of one run over the benchmark's items",
    )  # fmt: skip
    for item in audit.scores:
        pairs = [pair for pair in audit.comparisons if pair.second is item]
        told = Text("")
        for pair in pairs:
            told.append(f"{pair.first.score.model}: ")
            told.append(pair.verdict, style=_STYLES.get(pair.verdict, ""))
            told.append(f", {words.compared(pair)}; p {pair.p:.2g}, adjusted {pair.adjusted:.2g}")
        share = f"{item.score.value:.1%} ± {item.error:.1%}"
        title = f"{item.benchmark.title}, {item.benchmark.items} items"
        _row(table, title, item.score.model, share, f"{item.low:.1%} to {item.high:.1%}", told)
    yield table
    notes = [words.multiple(audit.comparisons)]
    notes += [f"{title}: {pitfall}." for title, pitfalls in words.pitfalls(audit) for pitfall in pitfalls]
    yield Text("\n".join(filter(None, notes)), style="dim")
