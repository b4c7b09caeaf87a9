"""An audit for programs: JSON with everything, and a long CSV of its rows. SI units throughout."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from homegrown.plan.audit import words
from homegrown.plan.audit.audit import Audit, Finding
from homegrown.plan.audit.benchmarks import Comparison, Scored
from homegrown.plan.audit.checks import VERDICTS
from homegrown.plan.audit.claim import Statement
from homegrown.plan.audit.span import Span

VERSION = 1
"""Of the JSON's form; a change that breaks readers raises it."""
COLUMNS = ("kind", "name", "reading", "value", "low", "high", "stated_low", "stated_high", "verdict", "from")


def to_json(audit: Audit) -> str:
    """Everything that was found, as text with a newline at its end."""
    claim = audit.claim
    found = {
        "version": VERSION,
        "claim": {name: getattr(claim, name) for name in ("name", "title", "who", "about", "model")},
        "verdict": {
            "best": audit.verdict,
            "usual": audit.usual,
            "readings": {verdict: audit.readings(verdict) for verdict in VERDICTS},
            "sentences": words.headline(audit),
            "any_one_wrong_would_resolve_it": list(audit.blame),
        },
        "statements": [_statement(item) for item in claim.statements],
        "readings": [
            {"name": item.name, "question": item.question, "choices": {way.name: way.says for way in item.choices}}
            for item in claim.ambiguities
        ],
        "outcomes": {name[1:]: _span(span) for name, span in audit.outcomes.items()},
        "cases": [
            {
                "choices": dict(case.reading.choices),
                "basis": asdict(case.reading.basis),
                "verdict": case.verdict,
                "outcomes": {
                    name[1:]: {**_span(ways[0].likely), "from": words.formula(ways[0])}
                    for name, ways in case.outcomes.items()
                },
            }
            for case in audit.cases
        ],
        "checks": [_finding(item) for item in audit.findings],
        "choices": [
            {
                "reading": item.ambiguity, "choice": item.choice, "verdict": item.verdict,
                "verdicts": {verdict: item.verdicts.get(verdict, 0) for verdict in VERDICTS},
                "outcomes": {name[1:]: _span(span) for name, span in item.outcomes.items()},
            }
            for item in audit.choosings
        ],
        "settling": [
            {
                "outcome": item.outcome[1:], "before": _span(item.before), "if_known": item.unknown, "key": item.key,
                "factor_before": _number(item.before.factor), "factor_after": _number(item.factor), "gain": item.gain,
            }
            for item in audit.settlings
        ],
        "untested": [{"statement": item.statement, "would": list(item.would)} for item in audit.untested],
        "scores": [_score(item) for item in audit.scores],
        "comparisons": [_comparison(item) for item in audit.comparisons],
    }  # fmt: skip
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(audit: Audit) -> str:
    """Statements, outcomes of every reading, checks, scores and comparisons, one a row."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(audit))
    return file.getvalue()


def _rows(audit: Audit) -> Iterator[dict[str, Any]]:
    for item in audit.claim.statements:
        yield {"kind": "statement", "name": item.id, **_span(item.span), "from": item.source}
    for case in audit.cases:
        reading = words.choices(case.reading.choices)
        yield {"kind": "reading", "name": audit.claim.name, "reading": reading, "verdict": case.verdict}
        for name, ways in case.outcomes.items():
            told = {"reading": reading, **_span(ways[0].likely), "from": words.formula(ways[0])}
            yield {"kind": "outcome", "name": name[1:], **told}
    for finding in audit.findings:
        for row in finding.rows:
            check = row.check
            yield {
                "kind": "check", "name": check.about.name, "reading": words.choices(row.choices),
                **_span(check.implied.likely), "stated_low": check.about.possible.low,
                "stated_high": _number(check.about.possible.high), "verdict": check.verdict,
                "from": words.against(check),
            }  # fmt: skip
    for score in audit.scores:
        yield {
            "kind": "score", "name": f"{score.benchmark.title}: {score.score.model}", "value": score.score.value,
            "low": score.low, "high": score.high, "from": score.score.source,
        }  # fmt: skip
    for pair in audit.comparisons:
        yield {
            "kind": "comparison",
            "name": f"{pair.first.benchmark.title}: {pair.first.score.model} less {pair.second.score.model}",
            "value": pair.gap, "verdict": pair.verdict,
        }  # fmt: skip


def _span(span: Span) -> dict[str, float | None]:
    return {"value": span.value, "low": span.low, "high": _number(span.high)}


def _number(value: float) -> float | None:
    """JSON knows no infinity: an open end is null."""
    return value if math.isfinite(value) else None


def _statement(item: Statement) -> dict[str, Any]:
    return {
        "id": item.id, "quantity": item.quantity, "part": item.part, "text": item.text, **_span(item.span),
        "says": item.says, "source": item.source, "date": item.date, "mark": item.mark,
        "computed_from": list(item.computed),
    }  # fmt: skip


def _finding(finding: Finding) -> dict[str, Any]:
    check = finding.check
    return {
        "about": check.about.name,
        "statements": list(check.statements),
        "against": words.against(check),
        "verdict": finding.verdict or "depends on the reading",
        "reason": check.reason,
        "alike": finding.alike,
        "rows": [
            {
                "choices": dict(row.choices), "verdict": row.check.verdict, "stated": _span(row.check.about.possible),
                "implied": _span(row.check.implied.likely), "possible": _span(row.check.implied.possible),
                "apart": _number(row.check.apart),
            }
            for row in finding.rows
        ],
    }  # fmt: skip


def _score(item: Scored) -> dict[str, Any]:
    return {
        "benchmark": item.benchmark.title, "items": item.benchmark.items, "model": item.score.model,
        "own": item.score.own, "value": item.score.value, "runs": item.score.runs, "standard_error": item.error,
        "standard_error_least": item.least, "low": item.low, "high": item.high,
    }  # fmt: skip


def _comparison(pair: Comparison) -> dict[str, Any]:
    return {
        "benchmark": pair.first.benchmark.title, "first": pair.first.score.model, "second": pair.second.score.model,
        "gap": pair.gap, "standard_error": pair.error, "standard_error_paired": pair.paired, "p": pair.p,
        "p_adjusted": pair.adjusted, "p_paired": pair.closest, "verdict": pair.verdict,
    }  # fmt: skip
