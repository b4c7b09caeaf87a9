"""Energy against what was measured, and never against hours times rated power."""

import pytest

from homegrown.config import ConfigError
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.energy import Power, energy, power_of
from homegrown.plan.quantity import intervals
from tests.plan.clusters import CLUSTER, cluster, exactly

HOUR, DAY = 3600.0, 86_400.0


class TestPublished:
    @pytest.mark.parametrize(
        ("chips", "days", "watts", "pue", "mwh"),
        [  # arXiv 2104.10350, table 4: metered power a chip with its share of the host
            (512, 20, 310, 1.12, 85.7),
            (1024, 30, 289, 1.09, 232),
            (1024, 3.1, 288, 1.09, 24.1),
            (1024, 27, 245, 1.10, 179),
            (10_000, 14.8, 330, 1.10, 1287),
        ],
    )
    def test_patterson(self, chips, days, watts, pue, mwh):
        found = energy(Power(load=watts, idle=0, pue=pue), chips, days * DAY, busy=1)
        assert found.mwh == pytest.approx(mwh, rel=0.01)

    def test_palm(self):
        """6,144 chips for 1,200 hours and 3,072 for 336 at 378.5 W each, host included (arXiv 2204.02311)."""
        power = Power(load=378.5, idle=0, pue=1.08)
        parts = [energy(power, chips, hours * HOUR, busy=1).mwh for chips, hours in ((6144, 1200), (3072, 336))]
        assert sum(parts) == pytest.approx(3436, rel=0.001)


class TestPower:
    def test_linear_between_idle_and_load(self):
        power = Power(load=900, idle=100, system=300, pue=1.1)
        assert power.machine(0) == 400
        assert power.machine(0.5) == 800
        assert power.site(1) == pytest.approx(1320)

    def test_of_cluster_takes_the_share_of_rated_power_that_training_draws(self):
        power = power_of(CLUSTER)
        assert 700 < power.load < 1000
        assert (power.idle, power.system, power.pue) == (100, 300, 1.1)

    def test_idle_is_no_more_than_load(self):
        assert power_of(cluster(chip_idle_power=exactly(5000.0))).idle == power_of(CLUSTER).load

    def test_refuses(self):
        with pytest.raises(ConfigError, match="load 100 W, idle 200 W"):
            Power(load=100, idle=200)
        with pytest.raises(ConfigError, match=r"busy 1\.5"):
            energy(Power(load=1, idle=0), 1, 1, busy=1.5)


class TestCatalogue:
    """The package's own figures against metered ones. Anchors, from which they were taken, are told from checks."""

    def interval(self, name, figure):
        cluster = Catalogue.load().cluster(name)
        return intervals(lambda world: {"it": figure(power_of(cluster, world))})["it"]

    def test_anchor_node_of_eight(self):
        """7.92 kW (median, training of a 13B model) to 8.48 kW (peak): arXiv 2412.08602."""
        found = self.interval("hgx-h100", lambda power: 8 * power.machine(busy=1))
        assert 7.92e3 < found.value < 8.48e3
        assert found.holds(7.92e3)

    def test_anchor_palm(self):
        """378.5 W a chip with its host: arXiv 2204.02311."""
        assert self.interval("tpu-v4", lambda power: power.machine(busy=1)).holds(378.5)

    def test_check_glam(self):
        """213 MWh of 1,024 chips in 574 hours: arXiv 2112.06905."""
        found = self.interval("tpu-v4", lambda power: energy(power, 1024, 574 * HOUR, busy=1).mwh)
        assert found.holds(213)
        assert found.value == pytest.approx(213, rel=0.1)

    def test_anchor_rack(self):
        """120 to 145 kW a rack of 72, by its vendor and others."""
        found = self.interval("gb200-nvl72", lambda power: 72 * power.machine(busy=1))
        assert 120e3 < found.value < 145e3
