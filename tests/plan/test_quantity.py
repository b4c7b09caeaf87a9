"""Figures with intervals: quantiles, worlds, and what becomes of results."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from homegrown.config import ConfigError
from homegrown.plan.quantity import EXPECTED, SPREAD, Interval, Quantity, World, intervals


class TestQuantity:
    def test_tenths_are_the_ends(self):
        figure = Quantity(value=100.0, low=80.0, high=150.0)
        assert figure.at(0.5) == 100.0
        assert figure.at(0.1) == pytest.approx(80.0)
        assert figure.at(0.9) == pytest.approx(150.0)

    def test_each_side_is_normal_in_its_logarithm(self):
        figure = Quantity(value=100.0, low=80.0, high=150.0)
        for share in (0.6, 0.75, 0.99):
            sigma = math.log(150 / 100) / NormalDist().inv_cdf(0.9)
            assert figure.at(share) == pytest.approx(100 * math.exp(sigma * NormalDist().inv_cdf(share)))

    @pytest.mark.parametrize("mark", SPREAD)
    def test_marks_become_intervals(self, mark):
        figure = Quantity.marked(10.0, mark)
        assert figure.high / figure.value == pytest.approx(figure.value / figure.low)
        assert figure.high / figure.value == pytest.approx(SPREAD[mark])

    def test_a_worse_mark_is_wider(self):
        assert list(SPREAD.values()) == sorted(SPREAD.values())

    @pytest.mark.parametrize(
        ("value", "low", "high"),
        [(1.0, 2.0, 3.0), (0.0, 0.0, 1.0), (-1.0, -2.0, 1.0), (1.0, 0.5, math.inf), (math.nan, 0.5, 2.0)],
    )
    def test_refuses(self, value, low, high):
        with pytest.raises(ConfigError, match="must be positive, finite and inside its interval"):
            Quantity(value=value, low=low, high=high)


class TestWorld:
    FIGURE = Quantity(value=10.0, low=5.0, high=20.0)

    def test_the_expected_one_has_best_guesses(self):
        assert EXPECTED.of("x", self.FIGURE) == 10.0

    def test_every_share_comes_once(self):
        drawn = sorted(World(index, 40).of("x", self.FIGURE) for index in range(40))
        assert drawn == pytest.approx([self.FIGURE.at((index + 0.5) / 40) for index in range(40)])

    def test_one_name_one_value(self):
        world = World(3, 40)
        assert world.of("x", self.FIGURE) == world.of("x", self.FIGURE) == World(3, 40).of("x", self.FIGURE)

    def test_names_and_seeds_are_independent(self):
        def ranks(name, seed):
            return np.array([World(index, 2000, seed).of(name, self.FIGURE) for index in range(2000)])

        for other in (ranks("y", 0), ranks("x", 1)):
            assert abs(np.corrcoef(np.log(ranks("x", 0)), np.log(other))[0, 1]) < 0.07


class TestIntervals:
    def test_of_a_product(self):
        """Logarithms of independent figures add, and so do their variances."""
        a, b = Quantity.marked(2.0, "B"), Quantity.marked(3.0, "C")
        found = intervals(lambda world: {"ab": world.of("a", a) * world.of("b", b)}, worlds=4000)["ab"]
        spread = math.exp(math.hypot(math.log(SPREAD["B"]), math.log(SPREAD["C"])))
        assert found.value == 6.0
        assert found.low == pytest.approx(6.0 / spread, rel=0.01)
        assert found.high == pytest.approx(6.0 * spread, rel=0.01)

    def test_what_shares_a_figure_cancels(self):
        figure = Quantity.marked(2.0, "gap")
        found = intervals(lambda world: {"one": world.of("a", figure) / world.of("a", figure)})["one"]
        assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)

    def test_holds_the_middle(self):
        """A maximum's best guess may lie outside the tenths of its worlds; its interval holds it all the same."""
        figures = [Quantity.marked(1.0, "gap") for _ in range(20)]
        worst = intervals(lambda world: {"max": max(world.of(str(n), figure) for n, figure in enumerate(figures))})
        assert worst["max"].low == worst["max"].value == 1.0
        assert worst["max"].holds(1.0)
        assert not Interval(1.0, 0.5, 2.0).holds(2.1)
