"""Claims as TOML files: read strictly, every mistake named."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from homegrown.config import build, read_toml
from homegrown.config.errors import ConfigError
from homegrown.plan.audit import quantities
from homegrown.plan.audit.claim import Ambiguity, Basis, Choice, Claim, Part, Score, Statement
from homegrown.plan.audit.quantities import Kind
from homegrown.plan.audit.relations import Relation, relation
from homegrown.plan.audit.span import Span
from homegrown.plan.audit.wording import figure
from homegrown.plan.quantity import Mark

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class _Figure:
    title: str
    like: str = ""


@dataclass(frozen=True, kw_only=True)
class _Statement:
    id: str
    quantity: str
    value: str | int | float
    says: str
    source: str = ""
    date: str = ""
    mark: Mark | Literal[""] = ""
    part: str = ""
    computed_from: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    name: str
    says: str
    basis: dict[str, Any] = field(default_factory=dict)
    statements: dict[str, str | int | float] = field(default_factory=dict)
    quantities: dict[str, str] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    name: str
    question: str
    choice: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Score:
    benchmark: str
    model: str
    value: str
    runs: int = 1
    own: bool = False
    source: str = ""
    date: str = ""
    mark: Mark | Literal[""] = ""


@dataclass(frozen=True, kw_only=True)
class _File:
    title: str
    name: str = ""
    who: str = ""
    about: str = ""
    model: str = ""
    source: str = ""
    date: str = ""
    mark: Mark = "A"
    parts_are_all: bool = False
    basis: Basis = field(default_factory=Basis)
    statement: list[dict[str, Any]] = field(default_factory=list)
    reading: list[dict[str, Any]] = field(default_factory=list)
    part: list[dict[str, Any]] = field(default_factory=list)
    score: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    relations: list[str] = field(default_factory=list)


def shipped() -> list[str]:
    """Names of the claims that come with the package."""
    folder = resources.files("homegrown.plan") / "data/claims"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name: str | Path) -> Claim:
    """A claim from a file, or a shipped one by its name.

    Raises:
        ConfigError: neither exists, or the file holds an unknown key, a wrong unit, an absurd value or a loose end.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return claim(read_toml(path), str(path), path.stem)
    if str(name) not in shipped():
        close = difflib.get_close_matches(str(name), shipped(), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"no claim {str(name)!r}{hint}; there are: {', '.join(shipped())}; or name a .toml file")
    text = (resources.files("homegrown.plan") / f"data/claims/{name}.toml").read_text("utf-8")
    return claim(tomllib.loads(text), f"claim {name}", str(name))


def claim(table: Mapping[str, Any], where: str, name: str) -> Claim:
    """A claim from the table of a file; `where` opens messages, `name` is its name unless it has one of its own."""
    return _Reader(build(_File, dict(table), where), where).claim(name)


class _Reader:
    """A file's entries made into a claim's, with what they refer to at hand."""

    def __init__(self, file: _File, where: str) -> None:
        self._file, self._where = file, where
        self._kinds = {name: self._kind(name, entry) for name, entry in file.figures.items()}
        self._known: dict[str, Statement] = {}

    def claim(self, name: str) -> Claim:
        file, where = self._file, self._where
        parts = tuple(build(Part, entry, f"{where}: part {number}") for number, entry in enumerate(file.part, 1))
        _refuse_twins((part.name for part in parts), f"{where}: part")
        statements = tuple(self._statement(entry, number) for number, entry in enumerate(file.statement, 1))
        _refuse_twins((item.id for item in statements), f"{where}: statement")
        _refuse_strays((item.part for item in statements if item.part), [part.name for part in parts], f"{where}: part")
        self._known = {item.id: item for item in statements}
        for item in statements:
            _refuse_strays(item.computed, list(self._known), f"{where}: statement {item.id}: computed_from")
        scores = tuple(self._score(entry, number) for number, entry in enumerate(file.score, 1))
        if not statements and not scores:
            raise ConfigError(f"{where}: says nothing; write at least one [[statement]] or [[score]]")
        ambiguities = tuple(self._ambiguity(entry, number) for number, entry in enumerate(file.reading, 1))
        _refuse_twins((item.name for item in ambiguities), f"{where}: reading")
        return Claim(
            name=file.name or name, title=file.title, who=file.who, about=file.about, model=file.model,
            basis=file.basis, statements=statements, ambiguities=ambiguities, parts=parts, whole=file.parts_are_all,
            scores=scores, figures=self._kinds, relations=tuple(self._relation(words) for words in file.relations),
        )  # fmt: skip

    def _kind(self, name: str, entry: object) -> Kind:
        label = f"{self._where}: figures.{name}"
        if name in quantities.KINDS or not name.replace("_", "").isalnum():
            raise ConfigError(f"{label}: choose a name of letters, digits and '_' that is not one of a known figure")
        raw = build(_Figure, {"title": entry} if isinstance(entry, str) else _table(entry, label), label)
        return quantities.own(raw.title, raw.like, f"{label}: ")

    def _relation(self, words: str) -> Relation:
        made = relation(words, f"{self._where}: relations: ")
        for name in sorted(made.names - self._kinds.keys()):
            quantities.kind(name, f"{self._where}: relations: {words!r}: ")
        return made

    def _span(self, value: str | float, quantity: str, label: str) -> Span:
        kind = self._kinds.get(quantity) or quantities.kind(quantity, f"{label}: ")
        return figure(value, kind, label)

    def _statement(self, entry: dict[str, Any], number: int) -> Statement:
        label = f"{self._where}: statement {entry.get('id', number)}"
        raw = build(_Statement, entry, label)
        return Statement(
            id=_named(raw.id, label), quantity=raw.quantity, text=str(raw.value),
            span=self._span(raw.value, raw.quantity, f"{label}: value"), says=raw.says, part=raw.part,
            computed=tuple(raw.computed_from), **self._origin(raw),
        )  # fmt: skip

    def _origin(self, raw: _Statement | _Score) -> dict[str, Any]:
        """Source, date and mark: an entry's own, or the file's."""
        file = self._file
        return {"source": raw.source or file.source, "date": raw.date or file.date, "mark": raw.mark or file.mark}

    def _ambiguity(self, entry: dict[str, Any], number: int) -> Ambiguity:
        label = f"{self._where}: reading {entry.get('name', number)}"
        raw = build(_Reading, entry, label)
        choices = tuple(self._choice(item, place, label) for place, item in enumerate(raw.choice, 1))
        if len(choices) < 2:
            raise ConfigError(f"{label}: has {len(choices)} choice; what can be read in one way only is no ambiguity")
        _refuse_twins((choice.name for choice in choices), f"{label}: choice")
        return Ambiguity(name=_named(raw.name, label), question=raw.question, choices=choices)

    def _choice(self, entry: dict[str, Any], number: int, where: str) -> Choice:
        label = f"{where}: choice {entry.get('name', number)}"
        raw = build(_Choice, entry, label)
        for names in (raw.statements, raw.quantities, raw.without):
            _refuse_strays(names, list(self._known), f"{label}: statement")
        build(Basis, raw.basis, f"{label}: basis")
        changed: dict[str, Statement] = {}
        for id_ in [*raw.quantities, *(id_ for id_ in raw.statements if id_ not in raw.quantities)]:
            said = self._known[id_]
            quantity, value = raw.quantities.get(id_, said.quantity), raw.statements.get(id_, said.text)
            span = self._span(value, quantity, f"{label}: statement {id_}")
            changed[id_] = replace(said, quantity=quantity, span=span, text=str(value))
        return Choice(
            name=_named(raw.name, label), says=raw.says, basis=raw.basis, figures=changed,
            without=frozenset(raw.without),
        )  # fmt: skip

    def _score(self, entry: dict[str, Any], number: int) -> Score:
        label = f"{self._where}: score {number}"
        raw = build(_Score, entry, label)
        share = figure(raw.value, _SCORE, f"{label}: value").value
        if raw.runs < 1:
            raise ConfigError(f"{label}: runs = {raw.runs}: must be at least 1")
        return Score(
            benchmark=raw.benchmark, model=raw.model, value=share, runs=raw.runs, own=raw.own, **self._origin(raw)
        )


_SCORE = quantities.Kind("a score", "share", 1e-6, 1, lambda value: f"{value:.1%}")


def _table(entry: object, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: must be a title, or a table with title and like, not {entry!r}")
    return entry


def _named(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is no name; use letters, digits, '-', '_' and '.'")
    return name


def _refuse_twins(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{where} {name!r} is there twice; every one needs a name of its own")
        seen.add(name)


def _refuse_strays(names: Iterable[str], known: list[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{where} {name!r} is not there; there are: {', '.join(known) or 'none'}")
