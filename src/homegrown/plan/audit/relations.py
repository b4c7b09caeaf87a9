"""What holds between the figures of a training run: identities, each a product of powers.

Read them as accounting, not as a model: they are true of every run whatever its machine, so that statements which
break one of them cannot all be true. What is left over after an identity is solved is what a claim implies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from homegrown.config.errors import ConfigError


class Solution(NamedTuple):
    """A figure as a constant times other figures to their powers, by name."""

    powers: dict[str, float]
    constant: float


@dataclass(frozen=True)
class Relation:
    """The product of figures to their powers is `constant`.

    Attributes:
        powers: name of a figure and its exponent, by name; none is zero.
        constant: positive.
        words: the identity as text.
    """

    powers: tuple[tuple[str, Fraction], ...]
    constant: float
    words: str = ""

    @property
    def names(self) -> frozenset[str]:
        """The figures in it."""
        return frozenset(name for name, _ in self.powers)

    def solved(self, name: str) -> Solution:
        """What the figure `name` is."""
        own = dict(self.powers)[name]
        powers = {other: float(-power / own) for other, power in self.powers if other != name}
        return Solution(powers, self.constant ** float(1 / own))

    def renamed(self, names: dict[str, str]) -> Relation:
        """The same between other figures."""
        powers = sorted((names.get(name, name), power) for name, power in self.powers)
        return Relation(tuple(powers), self.constant, self.words)


_SIDE = re.compile(r"\s*([*/]?)\s*(?:(\d+(?:\.\d+)?(?:e[+-]?\d+)?)|([a-z][a-z0-9_]*)(?:\^(-?\d+))?)\s*")


def relation(words: str, where: str = "") -> Relation:
    """An identity from text such as `flops = 6 * active * tokens`: figures, numbers, `*`, `/`, `^` and one `=`.

    Raises:
        ConfigError: it does not read so.
    """
    sides = words.split("=")
    powers: dict[str, Fraction] = {}
    logarithm = 0.0
    if len(sides) != 2:
        raise ConfigError(f"{where}{words!r}: an identity has one '=', as in 'energy = power * time'")
    for sign, side in zip((1, -1), sides, strict=True):
        for number, name, power in _factors(side, words, where):
            if name:
                powers[name] = powers.get(name, Fraction(0)) + sign * power
            else:
                logarithm -= sign * int(power) * math.log(number)
    kept = tuple(sorted((name, power) for name, power in powers.items() if power))
    if not kept:
        raise ConfigError(f"{where}{words!r}: an identity says something about at least one figure")
    return Relation(kept, math.exp(logarithm), words)


def _factors(side: str, words: str, where: str) -> Iterator[tuple[float, str, Fraction]]:
    place = 0
    while place < len(side) or place == 0:
        found = _SIDE.match(side, place)
        if not found or found.end() == place or (place == 0) != (found[1] == "") or found[2] in ("0", "0.0"):
            raise ConfigError(
                f"{where}{words!r}: must be figures and positive numbers joined by * or /, not {side.strip()!r}"
            )
        power = Fraction(found[4] or 1) * (-1 if found[1] == "/" else 1)
        yield float(found[2] or 1), found[3] or "", power
        place = found.end()


IDENTITIES = tuple(
    relation(words)
    for words in (
        "flops = tokens * flops_per_token",
        # Kaplan et al., arXiv 2001.08361, section 2.1: two FLOPs forward and four backward for each active parameter;
        # `beyond` is what attention over the context adds to that.
        "flops_per_token = 6 * active * beyond",
        "pace = pace_device * devices",
        "rate = pace_device * flops_per_token",
        # Chowdhery et al., arXiv 2204.02311, section 4.1: model FLOPs, recomputation left out; hardware FLOPs with it.
        "rate = utilisation * peak",
        "hardware_rate = rate * recompute",
        "hardware_rate = hardware_utilisation * peak",
        "tokens = pace * time * availability",
        "device_time = devices * time",
        "device_time = tokens * time_per_token",
        "batch = pace * step",
        "energy = device_time * power",
        "site_power = power * devices",
        "cost = device_time * price",
        "devices = nodes * node",
        "faults * fault_interval = 1",
        "faults = fault_rate * nodes",
        "lost = faults * repair",
        "interruptions = faults * window",
    )
)
"""Of every run. Names are those of `quantities.KINDS`, seconds and devices throughout."""


def consequences(relations: tuple[Relation, ...], known: frozenset[str]) -> tuple[Relation, ...]:
    """Every identity that holds between known figures only, and between no fewer of them.

    Figures that are not known are eliminated from the logarithms' linear system; of what remains, the vectors of
    smallest support are kept (the elementary vectors of its row space, Rockafellar 1969). Each is a test that the known
    figures can fail, and together they are all such tests.
    """
    found = []
    for basis in _blocks(_eliminated(relations, known)):
        found += _elementary(basis)
    return tuple(found)


_Line = tuple[dict[str, int], float]
"""Exponents, whole numbers without a common divisor, and the logarithm of the constant."""


def _eliminated(relations: Iterable[Relation], known: frozenset[str]) -> list[_Line]:
    """A basis of what the relations say about known figures alone."""
    lines = [_line(item) for item in relations]
    unknown = sorted({name for row, _ in lines for name in row} - known)
    for name in unknown:
        pivot = min((line for line in lines if name in line[0]), key=lambda line: len(line[0]), default=None)
        if pivot is not None:
            lines = [_without(name, line, pivot) for line in lines if line is not pivot]
    basis: list[tuple[str, _Line]] = []  # with the figure that each line alone holds
    for line in lines:  # what is left may say the same thing twice
        for lead, other in basis:
            line = _without(lead, line, other)
        if line[0]:
            lead = min(line[0])
            basis = [*((name, _without(lead, other, line)) for name, other in basis), (lead, line)]
    return [line for _, line in basis]


def _line(item: Relation) -> _Line:
    whole = math.lcm(*(power.denominator for _, power in item.powers))
    return {name: int(power * whole) for name, power in item.powers}, math.log(item.constant) * whole


def _without(name: str, line: _Line, pivot: _Line) -> _Line:
    """`line` with so much of `pivot` taken off that the figure drops out."""
    row, constant = line
    if name not in row:
        return line
    here, there = row[name], pivot[0][name]
    left = {other: there * power for other, power in row.items()}
    for other, power in pivot[0].items():
        left[other] = left.get(other, 0) - here * power
    common = math.gcd(*left.values()) or 1
    kept = {other: power // common for other, power in left.items() if power}
    return kept, (there * constant - here * pivot[1]) / common


def _blocks(basis: list[_Line]) -> list[list[_Line]]:
    """The lines in groups that share no figure."""
    groups: list[tuple[set[str], list[_Line]]] = []
    for line in basis:
        touching = [group for group in groups if group[0] & line[0].keys()]
        groups = [group for group in groups if group not in touching]
        names = set(line[0]).union(*(group[0] for group in touching))
        groups.append((names, [line, *(other for group in touching for other in group[1])]))
    return [lines for _, lines in groups]


def _elementary(basis: list[_Line]) -> list[Relation]:
    """Combinations of the lines that no combination with fewer figures is part of."""
    names = sorted({name for row, _ in basis for name in row})
    found: dict[frozenset[str], _Line] = {}
    for row, constant in _vanishing(basis, names):
        found.setdefault(frozenset(row), (row, constant))
    smallest = [line for support, line in found.items() if not any(other < support for other in found)]
    return [_relation(row, constant) for row, constant in smallest]


def _vanishing(lines: list[_Line], names: list[str]) -> Iterator[_Line]:
    """All combinations of r independent lines that vanish in r - 1 independent places, each the only one that does.

    Every vector of smallest support is among them. Places are tried in order, one figure eliminated at a time.
    """
    if len(lines) == 1:
        yield lines[0]
        return
    for place, name in enumerate(names):
        pivot = next((line for line in lines if name in line[0]), None)
        if pivot is not None:  # else the place tells nothing new after those before it
            rest = [_without(name, line, pivot) for line in lines if line is not pivot]
            yield from _vanishing(rest, names[place + 1 :])


def _relation(row: Mapping[str, int], constant: float) -> Relation:
    scale = row[min(row)]
    powers = tuple((name, Fraction(row[name], scale)) for name in sorted(row))
    return Relation(powers, math.exp(constant / scale))
