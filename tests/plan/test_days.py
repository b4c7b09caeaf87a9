"""A run's days, energy and cost from the time of its step; the worked example of an equivalent run."""

import pytest

from homegrown.plan.cost import cost
from homegrown.plan.days import Upkeeping, computing, outlook
from homegrown.plan.energy import Power, energy
from homegrown.plan.results import StepTime
from tests.plan.clusters import cluster, exactly

STEP = StepTime(compute={"linear": 6.0, "attention": 2.0}, exposed={"ep": 1.0}, bubble=0.5, optimizer=0.5, tokens=10**7)


def test_a_step_computes_for_a_part_of_it():
    assert computing(STEP) == pytest.approx(0.85)


def test_figures_follow_from_one_another():
    rented = cluster(chip_rental=exactly(2.0))
    found = outlook(rented, STEP, tokens=1e13, devices=4096, used=4000, state=1e9)
    assert found["days"] * 86_400 * found["goodput"] == pytest.approx(1e13 / 1e7 * 10)
    assert found["device_hours"] == pytest.approx(found["days"] * 24 * 4096)
    assert found["mwh"] == pytest.approx(found["mw"] * found["days"] * 24)
    assert found["usd"] == pytest.approx(found["device_hours"] * 2)
    assert found["mtbf_h"] == pytest.approx(24 / (500 * 5e-3))
    lost = sum(found[name] for name in ("redone", "restarting", "waiting", "paused"))
    assert found["goodput"] + lost == pytest.approx(1)
    assert 4096 * (100 + 300) * 1.1 < found["mw"] * 1e6 < 4096 * (1000 + 300) * 1.1


def test_no_price_is_no_dollars():
    assert "usd" not in outlook(cluster(), STEP, tokens=1e13, devices=64, used=64, state=1e9)


def test_spares_can_run_out():
    limited = Upkeeping(limited_spares=True)
    plenty, few = (
        outlook(cluster(), STEP, tokens=1e13, devices=devices, used=4000, state=1e9, how=limited)
        for devices in (4096, 4000)
    )
    assert plenty["waiting"] < 1e-3 < few["waiting"]
    assert plenty["days"] < few["days"]


class TestWorkedExample:
    """LongCat-2.0's 35T tokens, 311 GFLOP each at 8K, at the pace that was published and on other chips."""

    FLOPS = 35e12 * 311e9

    @pytest.mark.parametrize(
        ("tflops", "hours", "watts", "pue", "gwh"),
        [
            (385, 7.9e6, 0.9 * 700 + 400, 1.15, 9.3),  # H800 as DeepSeek-V3 used it; a node of eight draws 8.24 kW
            (1276, 2.4e6, 137e3 / 72, 1.15, 5.2),  # GB200; a rack of 72 draws 137 kW
            (72, 42e6, 559e3 / 384, 1.2, 73),  # 910C packages in pods of 559 kW
            (72, 42e6, 559e3 / 768, 1.2, 37),  # the same dies counted one by one
        ],
    )
    def test_hours_and_energy(self, tflops, hours, watts, pue, gwh):
        found = self.FLOPS / (tflops * 1e12) / 3600
        assert found == pytest.approx(hours, rel=0.015)
        spent = energy(Power(load=watts, idle=0, pue=pue), 1, found * 3600, busy=1)
        assert spent.mwh / 1e3 == pytest.approx(gwh, rel=0.015)

    def test_dollars(self):
        bill = cost(cluster(chip_rental=exactly(2.0)), 1, self.FLOPS / 385e12, joules=0)
        assert bill.dollars == pytest.approx(15.7e6, rel=0.005)

    def test_pace(self):
        """A trillion tokens a day on 50,000 devices."""
        assert 1e12 / 86_400 / 50_000 == pytest.approx(231, abs=1)
        assert 1e12 * 311e9 / 86_400 / 50_000 == pytest.approx(72e12, rel=0.001)
        assert 72 / 752 == pytest.approx(0.096, abs=0.0005)
        assert 72 / 376 == pytest.approx(0.192, abs=0.001)
