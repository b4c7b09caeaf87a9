"""Energy against what was measured, and never against hours times rated power."""

import pytest

from homegrown.config import ConfigError
from homegrown.plan.energy import Power, energy, power_of
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
