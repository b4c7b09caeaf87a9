"""A claim about a training run, as its file says it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from homegrown.config.errors import ConfigError
from homegrown.plan.audit.quantities import Kind
from homegrown.plan.audit.relations import Relation
from homegrown.plan.audit.span import Span
from homegrown.plan.quantity import Mark

MOST_READINGS = 512
"""Combinations of readings that are looked at; a claim with more is refused."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One thing that is said.

    Attributes:
        id: its name in the file.
        quantity: what it is a figure of; a key of `quantities.KINDS`, or a figure that the claim brings along.
        span: the figure in SI units, as exactly as the text gives it; `text`: as it is written.
        says: the sentence, in our words.
        part: of the run, where it is not said of the whole.
        computed: names of the statements from which its author calculated it: agreement with them proves nothing.
    """

    id: str
    quantity: str
    span: Span
    text: str
    says: str
    source: str
    date: str
    mark: Mark
    part: str = ""
    computed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Basis:
    """How a claim is counted, where it does not say so itself.

    Attributes:
        chip, cluster: names in the catalogue; of the device that is counted, and of what stands around it.
        dtype: whose peak utilisation is a share of; `precision`: of the products themselves, where it is another.
        sequence: tokens of a training sequence; 0, the model's own is not known.
        attention: `causal` counts the keys that a query sees, `full` all keys of the sequence.
        sparse: attention selects keys as the model defines; otherwise it is dense.
        draft: FLOPs of the draft head are counted; `router`: those of the router and the indexer's projections.
        count: `definition` counts the model's own matrices; `parameters` takes six FLOPs per active parameter.
        recompute: what the backward pass does again: `none`, or `full`: a whole forward pass.
    """

    chip: str = ""
    cluster: str = ""
    dtype: str = "bf16"
    precision: str = ""
    sequence: int = 0
    attention: Literal["causal", "full"] = "causal"
    sparse: bool = True
    draft: bool = False
    router: bool = True
    count: Literal["definition", "parameters"] = "definition"
    recompute: Literal["none", "full"] = "none"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to read what is ambiguous.

    Attributes:
        basis: fields of `Basis` that are so, by name.
        figures: statements that say something else then, or are of something else, by name.
        without: statements that do not stand then.
    """

    name: str
    says: str
    basis: Mapping[str, object]
    figures: Mapping[str, Statement]
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Ambiguity:
    """What may be read in more than one way; the first choice is the usual one."""

    name: str
    question: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the run that statements are made about."""

    name: str
    title: str
    sequence: int = 0


@dataclass(frozen=True, kw_only=True)
class Score:
    """A benchmark result that the claim holds; `value` is a share of the items, `runs` its independent attempts."""

    benchmark: str
    model: str
    value: float
    source: str
    date: str
    mark: Mark
    runs: int = 1
    own: bool = False


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Everything that is said about one run.

    Attributes:
        model: name of its definition; empty for a model whose shape nobody has published.
        whole: the parts are all there is, so that theirs add up to the run's.
        figures, relations: that the claim brings along: kinds by name, and what holds between them.
    """

    name: str
    title: str
    who: str
    about: str
    model: str
    basis: Basis
    statements: tuple[Statement, ...]
    ambiguities: tuple[Ambiguity, ...] = ()
    parts: tuple[Part, ...] = ()
    whole: bool = False
    scores: tuple[Score, ...] = ()
    figures: Mapping[str, Kind] = field(default_factory=dict)
    relations: tuple[Relation, ...] = ()

    def readings(self) -> Iterator[Reading]:
        """Every combination of choices."""
        for choices in itertools.product(*(ambiguity.choices for ambiguity in self.ambiguities)):
            names = {item.name: choice.name for item, choice in zip(self.ambiguities, choices, strict=True)}
            yield self._read(names, choices)

    def _read(self, names: Mapping[str, str], choices: tuple[Choice, ...]) -> Reading:
        basis, statements = self.basis, {statement.id: statement for statement in self.statements}
        for choice in choices:
            basis = replace(basis, **choice.basis)  # type: ignore[arg-type]
            statements |= choice.figures
            statements = {id_: statement for id_, statement in statements.items() if id_ not in choice.without}
        return Reading(names, basis, tuple(statements.values()))

    def __post_init__(self) -> None:
        combinations = 1
        for ambiguity in self.ambiguities:
            combinations *= len(ambiguity.choices)
        if combinations > MOST_READINGS:
            raise ConfigError(
                f"claim {self.name}: {combinations} combinations of readings; must be at most {MOST_READINGS}"
            )


@dataclass(frozen=True)
class Reading:
    """A claim with every ambiguity decided: names of the choices by ambiguity, and what is said then."""

    choices: Mapping[str, str]
    basis: Basis
    statements: tuple[Statement, ...]
