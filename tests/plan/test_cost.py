"""What it costs: identities with published sums, and that no price is made up."""

import pytest

from homegrown.config import ConfigError
from homegrown.plan.cost import basis_of, cost
from homegrown.plan.quantity import EXPECTED
from tests.plan.clusters import CLUSTER, cluster, exactly

HOUR, YEAR = 3600.0, 365.25 * 86_400


def test_deepseek_v3():
    """2.788 million hours at 2 dollars are 5.576 million dollars (arXiv 2412.19437, table 1)."""
    rented = cost(cluster(chip_rental=exactly(2.0)), 2048, 2.788e6 / 2048 * HOUR, joules=0)
    assert rented is not None
    assert rented.basis == "rented"
    assert rented.dollars == pytest.approx(5.576e6)


def test_owned_is_write_off_people_and_power():
    bought = cluster(chip_capital=exactly(50_000.0))
    figures = cost(bought, 1000, YEAR / 12, joules=3.6e12)
    assert figures is not None
    assert figures.basis == "owned"
    assert figures.dollars == pytest.approx(figures.machines + figures.staff + figures.electricity)
    assert 1000 * 50_000 / 12 / 6 < figures.machines < 1000 * 50_000 / 12 / 3
    assert 1e6 * 0.05 < figures.electricity < 1e6 * 0.13
    assert cost(bought, 1000, YEAR / 12, joules=0).electricity == 0


def test_rent_goes_first_unless_wanted_otherwise():
    both = cluster(chip_rental=exactly(1.0), chip_capital=exactly(1.0))
    assert basis_of(both) == "rented"
    assert basis_of(both, "owned") == "owned"


def test_no_price_is_no_cost():
    assert cost(CLUSTER, 1, HOUR, 0.0, EXPECTED) is None
    with pytest.raises(ConfigError, match="no price is known for Round Chip; give its `capital`"):
        basis_of(CLUSTER, "owned")
