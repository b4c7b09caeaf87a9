"""A run's days, energy and cost from the time of its step; the worked example of an equivalent run."""

import pytest

from homegrown.plan.days import Upkeeping, computing, outlook
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
    """LongCat-2.0's 35T tokens of 311 GFLOP each at 8K, at the pace that was published and on other chips."""

    FLOPS = 311e9

    def on(self, tflops, watts, pue):
        """Of a thousand devices at that throughput and so many watts each, on which next to nothing fails."""
        whole = cluster(
            chip_power=exactly(watts / 0.9), system_power=exactly(1e-9), pue=exactly(pue), failures=exactly(1e-7),
            chip_rental=exactly(2.0),
        )  # fmt: skip
        step = StepTime(compute={"all": 1e6 * self.FLOPS / (1000 * tflops * 1e12)}, exposed={}, tokens=10**6)
        return outlook(whole, step, tokens=35e12, devices=1000, used=1000, state=1e9)

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
        found = self.on(tflops, watts, pue)
        assert found["device_hours"] == pytest.approx(hours, rel=0.015)
        assert found["mwh"] == pytest.approx(gwh * 1000, rel=0.015)

    def test_dollars(self):
        assert self.on(385, 1030, 1.15)["usd"] == pytest.approx(15.7e6, rel=0.005)

    def test_pace(self):
        """A trillion tokens a day on 50,000 devices is 72 TFLOP/s each."""
        assert self.on(72, 1456, 1.2)["days"] * 1000 / 50_000 == pytest.approx(35, rel=0.001)
