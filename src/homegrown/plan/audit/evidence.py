"""What one reading of a claim has to go by: its own statements, and what is known about its model and its machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

from homegrown.plan.audit.claim import Basis, Claim, Reading, Statement
from homegrown.plan.audit.quantities import KINDS, Kind
from homegrown.plan.audit.relations import IDENTITIES, Relation, Solution, consequences
from homegrown.plan.audit.span import Span, product

COUNTING = Span(1 / 1.01, 1.0, 1.01)
"""Of FLOPs counted from a definition: norms, softmax and the like are left out of all published counts."""
CUSTOM = Span(1 / 1.03, 1.0, 1.03)
"""Of parameters in a definition: authors differ on whether embeddings, head and draft head count."""
ATTENTION = (Span(1.0, 1.05, 1.25), Span(1.0, 1.05, 2.0))
"""What attention adds to six FLOPs per active parameter, in a model of unknown shape: usually, and at all. At 4K to 8K
tokens it is 1 to 25 % in the models of known shape."""
AVAILABLE = (Span(0.85, 0.95, 1.0), Span(0.0, 0.95, 1.0))
"""Share of the time that is training: usually (90 % is what arXiv 2407.21783, section 3.3.4 reports, 98.5 % arXiv
2509.01322), and at all."""
REDONE = Span.exactly(4 / 3)
"""A second forward pass in a step of three (Narayanan et al., arXiv 2104.04473, section 3)."""
INHERITED = frozenset({"devices", "nodes", "recompute", "batch"})
"""What a part of a run has in common with the whole of it unless it says otherwise."""
STATED_TOO = frozenset({"total", "active", "active_least", "active_most"})
"""What a definition says beside the claim, so that the two can be compared."""
BY_LENGTH = frozenset({"flops_per_token", "beyond"})
"""The same, unless the part has sequences of its own length."""


@dataclass(frozen=True)
class Fact:
    """What is known about a figure without the claim's help: usually, and at all."""

    likely: Span
    possible: Span
    says: str

    @classmethod
    def certain(cls, span: Span, says: str) -> Fact:
        """A fact that is no wider in principle than it is as a rule."""
        return cls(span, span, says)


class Facts(Protocol):
    """Where facts come from; each is empty where nothing is known."""

    def of_model(self, model: str, basis: Basis) -> Mapping[str, Fact]:
        """Parameters, and training FLOPs of a token at the basis' sequence length."""

    def of_machine(self, basis: Basis) -> Mapping[str, Fact]:
        """Peak, limit of utilisation, power, price and devices of a node."""

    def rated_power(self, basis: Basis) -> float | None:
        """Watts of the device at full load by its data sheet."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A figure to go by.

    Attributes:
        name: id of the statement, or `known NAME`.
        figure: what it is one of, with its part; `kind` is the kind of it.
        likely, possible: the same for statements.
        statement: that it is; None for a fact.
        by: statements that it rests on.
    """

    name: str
    figure: str
    kind: Kind
    likely: Span
    possible: Span
    says: str
    statement: Statement | None = None
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Implied:
    """What leaves imply for a figure: a constant times each to its power; the interval, usually and at all."""

    leaves: tuple[Leaf, ...]
    powers: tuple[float, ...]
    constant: float
    likely: Span
    possible: Span

    def knowing(self, name: str) -> Span:
        """The usual interval if one leaf were known for certain to be its best guess."""
        spans = (leaf.likely.collapsed if leaf.name == name else leaf.likely for leaf in self.leaves)
        return product(self.constant, zip(spans, self.powers, strict=True))

    @property
    def by(self) -> tuple[str, ...]:
        """Statements that it rests on, each once."""
        return tuple(dict.fromkeys(id_ for leaf in self.leaves for id_ in leaf.by))


class Structure:
    """What holds between figures and leaves, whatever their values; the same for most readings of a claim."""

    def __init__(self, relations: tuple[Relation, ...]) -> None:
        self.relations = relations
        self._found: dict[frozenset[str], tuple[Relation, ...]] = {}
        self._ways: dict[tuple[str, frozenset[str]], tuple[Solution, ...]] = {}

    def between(self, known: frozenset[str]) -> tuple[Relation, ...]:
        """What holds between known ones alone, remembered; see `consequences`."""
        if known not in self._found:
            self._found[known] = consequences(self.relations, known)
        return self._found[known]

    def ways(self, figure: str, known: frozenset[str]) -> tuple[Solution, ...]:
        """Every way in which known leaves give a figure, remembered."""
        if (figure, known) not in self._ways:
            through = (item for item in self.between(known | {figure}) if figure in item.names)
            self._ways[figure, known] = tuple(item.solved(figure) for item in through)
        return self._ways[figure, known]


@dataclass(frozen=True)
class Evidence:
    """Leaves by name, and all that holds between figures and them."""

    leaves: Mapping[str, Leaf]
    structure: Structure

    def tests(self) -> tuple[Relation, ...]:
        """What the leaves must satisfy among themselves."""
        return self.structure.between(frozenset(self.leaves))

    def implied(self, figure: str) -> list[Implied]:
        """Every way in which leaves of other figures give one; the narrowest first."""
        known = frozenset(leaf.name for leaf in self.leaves.values() if leaf.figure != figure)
        found = (self.solve(way) for way in self.structure.ways(figure, known))
        return sorted(found, key=lambda way: (way.likely.factor, len(way.leaves)))

    def solve(self, way: Solution) -> Implied:
        """What leaves give for a figure."""
        leaves = tuple(self.leaves[name] for name in way.powers)
        powers = tuple(way.powers.values())
        likely = product(way.constant, ((leaf.likely, power) for leaf, power in zip(leaves, powers, strict=True)))
        possible = product(way.constant, ((leaf.possible, power) for leaf, power in zip(leaves, powers, strict=True)))
        return Implied(leaves, powers, way.constant, likely, possible)


Structures = dict[frozenset[tuple[str, str]], Structure]
"""Structures of one claim, by the leaves that are there: name and figure."""


def gather(claim: Claim, reading: Reading, facts: Facts, structures: Structures) -> Evidence:
    """Everything that one reading of a claim has to go by; `structures` keeps what readings have in common."""
    nodes = _Nodes(claim, reading)
    leaves = list(_said(claim, reading, nodes))
    for part in nodes.parts:
        leaves += list(_known(claim, reading, nodes, part, leaves, facts))
    ties = frozenset((leaf.name, leaf.figure) for leaf in leaves)
    if ties not in structures:
        structures[ties] = Structure((*nodes.relations(), *(tie(*names) for names in sorted(ties))))
    return Evidence({leaf.name: leaf for leaf in leaves}, structures[ties])


def tie(leaf: str, figure: str) -> Relation:
    """That a leaf is one of a figure."""
    return Relation(((figure, Fraction(-1)), (leaf, Fraction(1))), 1.0)


class _Nodes:
    """Figures by part: which are the whole run's, and which a part's own."""

    def __init__(self, claim: Claim, reading: Reading) -> None:
        self._claim = claim
        self._own = {(item.part, item.quantity) for item in reading.statements}
        self.parts = ["", *(part.name for part in claim.parts if any(part.name == own for own, _ in self._own))]
        self._lengths = {part.name: part.sequence for part in claim.parts}

    def of(self, quantity: str, part: str) -> str:
        if not part or (part, quantity) in self._own or quantity not in KINDS:
            return figure(quantity, part)
        if quantity == "nodes" and (part, "devices") in self._own:
            return figure(quantity, part)
        shared = KINDS[quantity].fixed or quantity in INHERITED
        shared |= quantity in BY_LENGTH and not self._lengths.get(part)
        return figure(quantity, "" if shared else part)

    def relations(self) -> Iterator[Relation]:
        """Every identity, for the whole run and for each part in which it has a figure of its own."""
        for item in (*IDENTITIES, *self._claim.relations):
            for part in self.parts:
                names = {name: self.of(name, part) for name in item.names}
                if not part or any(name != figure(other, "") for other, name in names.items()):
                    yield item.renamed(names)

    def sequence(self, part: str) -> int:
        return self._lengths.get(part, 0)


def figure(quantity: str, part: str = "") -> str:
    """The name of a figure of a part, or of the whole run."""
    return f"={quantity}@{part}" if part else f"={quantity}"


def _said(claim: Claim, reading: Reading, nodes: _Nodes) -> Iterator[Leaf]:
    for item in reading.statements:
        kind = claim.figures.get(item.quantity) or KINDS[item.quantity]
        yield Leaf(
            name=item.id, figure=nodes.of(item.quantity, item.part), kind=kind, likely=item.span, possible=item.span,
            says=item.says, statement=item, by=(item.id,),
        )  # fmt: skip
        if item.quantity == "lost":
            rest = _rest(item.span)
            yield Leaf(
                name=f"rest of {item.id}", figure=nodes.of("availability", item.part), kind=KINDS["availability"],
                likely=rest, possible=rest, says=f"What is left: {item.says}", by=(item.id,),
            )  # fmt: skip


def _rest(lost: Span) -> Span:
    """The share that is not lost."""
    low, value, high = (max(1.0 - end, 1e-6) for end in (lost.high, lost.value, lost.low))
    return Span(low, value, high)


def _known(
    claim: Claim, reading: Reading, nodes: _Nodes, part: str, leaves: Iterable[Leaf], facts: Facts
) -> Iterator[Leaf]:
    """Facts about the figures of a part that nobody states, each once."""
    basis = reading.basis if not nodes.sequence(part) else replace(reading.basis, sequence=nodes.sequence(part))
    found: dict[str, Fact] = {**facts.of_model(claim.model, basis), **facts.of_machine(basis)}
    if "flops_per_token" not in found:
        found["beyond"] = (
            Fact.certain(Span.exactly(1.0), "six FLOPs per active parameter and token, and no more")
            if basis.count == "parameters"
            else Fact(*ATTENTION, "what attention adds to six FLOPs per active parameter and token")
        )
    redone = REDONE if basis.recompute == "full" else Span.exactly(1.0)
    found["recompute"] = Fact.certain(redone, "what the backward pass does again")
    found["availability"] = Fact(*AVAILABLE, "the share of the time that is training")
    taken = {leaf.figure for leaf in leaves}
    for quantity, fact in found.items():
        name = nodes.of(quantity, part)
        if name == figure(quantity, part) and (name not in taken or quantity in STATED_TOO):
            yield Leaf(
                name=f"known {name[1:]}", figure=name, kind=KINDS[quantity], likely=fact.likely, possible=fact.possible,
                says=fact.says,
            )  # fmt: skip
