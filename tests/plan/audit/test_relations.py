"""What follows from identities: against random true assignments, and against linear algebra."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from homegrown.config import ConfigError
from homegrown.plan.audit.relations import IDENTITIES, Relation, consequences, relation
from homegrown.plan.audit.span import Span, product, union

SYSTEM = tuple(relation(words) for words in ("a = b * c", "c = 2 * d / e", "d^2 = f * g", "g = 3 * h * b", "e = h * i"))
NAMES = "abcdefghi"


def solved(free: dict[str, float]) -> dict[str, float]:
    """A true assignment of all nine figures from four of them."""
    b, d, h, i = (free[name] for name in "bdhi")
    e, g = h * i, 3 * h * b
    c = 2 * d / e
    return {"a": b * c, "b": b, "c": c, "d": d, "e": e, "f": d * d / g, "g": g, "h": h, "i": i}


def matrix(relations: tuple[Relation, ...], names: str) -> np.ndarray:
    return np.array([[float(dict(item.powers).get(name, 0)) for name in names] for item in relations])


@pytest.mark.parametrize("known", ["abdei", "abfhi", "acdefghi", "abcdefghi", "bd", "abdefhi"])
def test_consequences_are_true_minimal_and_complete(known):
    found = consequences(SYSTEM, frozenset(known))
    draw = random.Random(0)
    for _ in range(20):
        values = solved({name: math.exp(draw.uniform(-3, 3)) for name in "bdhi"})
        for item in found:
            assert math.prod(values[name] ** float(power) for name, power in item.powers) == pytest.approx(
                item.constant
            )
    supports = {item.names for item in found}
    assert supports == brute(known)


def brute(known: str) -> set[frozenset[str]]:
    """Smallest sets of known figures on which a combination of the relations lives, by rank alone."""
    rows = matrix(SYSTEM, NAMES)
    supports: set[frozenset[str]] = set()
    for size in range(1, len(known) + 1):
        for names in itertools.combinations(known, size):
            if any(smaller <= set(names) for smaller in supports):
                continue
            others = [place for place, name in enumerate(NAMES) if name not in names]
            if np.linalg.matrix_rank(rows[:, others]) < len(rows):  # a combination vanishes on all the others
                supports.add(frozenset(names))
    return supports


def test_a_figure_is_solved_for():
    item = relation("energy = 2 * power * time / loss^2")
    solution = item.solved("loss")
    values = {"energy": 3.0, "power": 5.0, "time": 7.0}
    loss = solution.constant * math.prod(values[name] ** power for name, power in solution.powers.items())
    assert 2 * 5 * 7 / loss**2 == pytest.approx(3)


def test_identities_hold_of_a_run_made_up():
    run = {
        "tokens": 1e12, "flops_per_token": 6e11, "active": 8e10, "beyond": 1.25, "devices": 1000.0, "peak": 1e15,
        "pace_device": 500.0, "availability": 0.9, "recompute": 4 / 3, "power": 1000.0, "price": 1 / 1800, "node": 8.0,
        "fault_rate": 1e-8, "repair": 600.0, "window": 1e6, "batch": 1e7,
    }  # fmt: skip
    run["flops"] = 6e23
    run["pace"] = 5e5
    run["rate"] = 3e14
    run["utilisation"] = 0.3
    run["hardware_rate"] = 4e14
    run["hardware_utilisation"] = 0.4
    run["time"] = 1e12 / 5e5 / 0.9
    run["device_time"] = run["time"] * 1000
    run["time_per_token"] = run["device_time"] / 1e12
    run["step"] = 20.0
    run["energy"] = run["device_time"] * 1000
    run["site_power"] = 1e6
    run["cost"] = run["device_time"] / 1800
    run["nodes"] = 125.0
    run["faults"] = 1.25e-6
    run["fault_interval"] = 8e5
    run["lost"] = 7.5e-4
    run["interruptions"] = 1.25
    for item in IDENTITIES:
        made = math.prod(run[name] ** float(power) for name, power in item.powers)
        assert made == pytest.approx(item.constant), item.words


@pytest.mark.parametrize(
    "words", ["a * b", "a = b = c", "= a", "a = ", "a = b + c", "a = -1 * b", "a = b *", "a = a", "a = 0 * b"]
)
def test_refuses_what_is_no_identity(words):
    with pytest.raises(ConfigError, match=r"identit|figures and positive numbers"):
        relation(words)


class TestSpan:
    def test_product_holds_every_product(self):
        draw = random.Random(1)
        for _ in range(200):
            spans = [
                Span(low, low * up, low * up * up)
                for low, up in zip(
                    [draw.uniform(0.1, 9) for _ in range(3)], [draw.uniform(1, 3) for _ in range(3)], strict=True
                )
            ]
            powers = [draw.choice([-2.0, -1.0, -0.5, 1.0, 2.0]) for _ in range(3)]
            whole = product(2.0, zip(spans, powers, strict=True))
            inside = 2.0 * math.prod(draw.uniform(s.low, s.high) ** p for s, p in zip(spans, powers, strict=True))
            assert whole.holds(inside)
            corners = [
                2.0 * math.prod(c)
                for c in itertools.product(*((s.low**p, s.high**p) for s, p in zip(spans, powers, strict=True)))
            ]
            assert (whole.low, whole.high) == pytest.approx((min(corners), max(corners)))

    def test_open_ends(self):
        limit = Span(0.0, 0.5, 1.0)
        assert product(1.0, [(limit, -1.0)]) == Span(1.0, 2.0, math.inf)
        assert product(1.0, [(limit, -1.0), (limit, 1.0)]) == Span(0.0, 1.0, math.inf)

    def test_apart(self):
        assert Span(1, 2, 3).apart(Span(2, 4, 6)) == 1
        assert Span(1, 2, 3).apart(Span(6, 6, 6)) == 2
        assert Span(6, 6, 6).apart(Span(1, 2, 3)) == 2

    def test_union(self):
        assert union([Span(5, 6, 7), Span(1, 2, 3), Span(2, 3, 9)]) == Span(1, 3, 9)

    @pytest.mark.parametrize("ends", [(2, 1, 3), (-1, 1, 2), (1, 2, 1), (0, 0, 1), (1, math.inf, math.inf)])
    def test_refuses(self, ends):
        with pytest.raises(ConfigError, match="positive, finite and between"):
            Span(*ends)
