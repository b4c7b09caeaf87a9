"""`homegrown audit`: whether a claim about a training run can be true."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from homegrown.cli.common import parse
from homegrown.config import UsageError

if TYPE_CHECKING:
    from homegrown.plan.audit import Audit
    from homegrown.plan.audit.known import Known

SUMMARY = "check a claim about a training run: what it implies, what contradicts what, what would settle it"


@dataclass(frozen=True, kw_only=True)
class AuditArguments:
    """Check a claim about a training run: what its statements imply, which of them contradict each other under which
    reading, and what single figure would settle it. Benchmark scores get their standard errors.

    The claim is a TOML file (docs/auditing.md describes it) or the name of one that ships with the package:
    `homegrown audit longcat-2.0`; `--list` lists those."""

    claim: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="[CLAIM]", help="A file, or the name of a shipped claim.")
    ] = ""
    list: bool = False
    """List the claims that ship with the package."""
    json: Path | None = None
    """Write everything that was found to this file; - prints it instead of tables."""
    csv: Path | None = None
    """Write statements, outcomes, checks and scores, one a row, to this file; - prints it instead of tables."""
    html: Path | None = None
    """Write a page with plots, self-contained, to this file."""
    data: Path | None = None
    """Folder with chips, clusters, models and prices of your own (docs/planning-data.md), over the package's."""


def run(argv: list[str]) -> int:
    """Audit a claim."""
    arguments = parse(AuditArguments, argv, "audit")
    if arguments.list == bool(arguments.claim):
        raise UsageError("name one claim (a file, or a shipped one) or pass --list")
    if sum(path == Path("-") for path in (arguments.json, arguments.csv)) > 1:
        raise UsageError("--json - --csv -: only one of them can be printed")
    from rich.console import Console

    from homegrown.plan.audit import audit, load, shipped
    from homegrown.plan.audit.benchmarks import load_benchmarks
    from homegrown.plan.audit.known import Known
    from homegrown.plan.audit.show import listing, tables
    from homegrown.plan.catalogue import Catalogue

    out = Console()
    if arguments.list:
        out.print(listing([load(name) for name in shipped()]))
        return 0
    known = Known(Catalogue.load(arguments.data))
    found = audit(load(arguments.claim), known, load_benchmarks())
    printed = _write(found, known, arguments)
    if not printed:
        for part in tables(found, known):
            out.print(part)
    return 0


def _write(found: Audit, known: Known, arguments: AuditArguments) -> bool:
    """Write the files that were asked for; whether one of them went to stdout."""
    from homegrown.config.atomic import write_text
    from homegrown.plan.audit.export import to_csv, to_json

    printed = False
    for path, make in ((arguments.json, to_json), (arguments.csv, to_csv)):
        if path == Path("-"):
            sys.stdout.write(make(found))
            printed = True
        elif path is not None:
            write_text(path, make(found))
    if arguments.html is not None:
        from homegrown.plan.audit.page import render

        write_text(arguments.html, render(found, known))
    return printed
