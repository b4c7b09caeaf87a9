"""Figures as claims word them."""

from __future__ import annotations

import pytest

from homegrown.config import ConfigError
from homegrown.plan.audit.quantities import KINDS
from homegrown.plan.audit.wording import UNITS, figure

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("text", "kind", "low", "value", "high"),
    [
        ("14.8T", "tokens", 14.75e12, 14.8e12, 14.85e12),
        ("14.80T tokens", "tokens", 14.795e12, 14.8e12, 14.805e12),
        ("> 35T", "tokens", 35e12, 35e12, 43.75e12),
        ("more than 35 trillion tokens", "tokens", 35e12, 35e12, 43.75e12),
        ("~50,000 cards", "devices", 50000 / 1.1, 50000, 55000),
        (2048, "devices", 2047.5, 2048, 2048.5),
        ("33 to 56B", "active", 33e9, 42.98837e9, 56e9),
        ("1M to 10M accelerator-days", "device_time", 1e6 * DAY, 10**6.5 * DAY, 1e7 * DAY),
        ("1M to 10M accelerator-hours", "device_time", 1e6 * HOUR, 10**6.5 * HOUR, 1e7 * HOUR),
        ("2.788M GPU-hours", "device_time", 2.7875e6 * HOUR, 2.788e6 * HOUR, 2.7885e6 * HOUR),
        ("< 3000 GPU-weeks", "device_time", 2400 * 7 * DAY, 3000 * 7 * DAY, 3000 * 7 * DAY),
        ("180K GPU-hours/T", "time_per_token", 179.5e3 * HOUR / 1e12, 180e3 * HOUR / 1e12, 180.5e3 * HOUR / 1e12),
        ("1T tokens a day", "pace", 0.5e12 / DAY, 1e12 / DAY, 1.5e12 / DAY),
        ("272.80B tokens/day", "pace", 272.795e9 / DAY, 272.8e9 / DAY, 272.805e9 / DAY),
        ("400 ± 5 TFLOP/s", "rate", 395e12, 400e12, 405e12),
        ("380-430 TFLOP/s", "rate", 380e12, 404.227e12, 430e12),
        ("3.8e25 FLOP", "flops", 3.75e25, 3.8e25, 3.85e25),
        ("41 %", "utilisation", 0.405, 0.41, 0.415),
        ("0.41", "utilisation", 0.405, 0.41, 0.415),
        ("> 90 %", "availability", 0.9, 0.9, 1.0),
        ("10 min a day", "lost", 9.5 / 1440, 10 / 1440, 10.5 / 1440),
        ("433,196 kWh", "energy", 433195.5 * 3.6e6, 433196 * 3.6e6, 433196.5 * 3.6e6),
        ("$5.576M", "cost", 5.5755e6, 5.576e6, 5.5765e6),
        ("$2/h", "price", 1.5 / HOUR, 2 / HOUR, 2.5 / HOUR),
        ("$2.00 per hour", "price", 1.995 / HOUR, 2 / HOUR, 2.005 / HOUR),
        ("3.79 per 1000 node-days", "fault_rate", 3.785e-3 / DAY, 3.79e-3 / DAY, 3.795e-3 / DAY),
        ("3 weeks", "time", 2.5 * 7 * DAY, 21 * DAY, 3.5 * 7 * DAY),
    ],
)
def test_reads(text, kind, low, value, high):
    span = figure(text, KINDS[kind], "x")
    assert (span.low, span.value, span.high) == pytest.approx((low, value, high), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("35 TB", "tokens", "unknown unit 'TB'"),
        ("400 TFLOP", "rate", "measures work; model FLOP/s of a device is written as '400 TFLOP/s'"),
        ("700 W", "energy", "measures power"),
        ("433 MWh", "power", "measures energy"),
        ("30", "device_time", "has no unit"),
        ("30 days", "device_time", "measures time"),
        ("41", "utilisation", "absurd"),
        ("0 tokens", "tokens", "greater than zero"),
        ("3 tokens", "tokens", "absurd"),
        ("56 to 33B", "active", "from a positive figure up to a greater one"),
        ("many", "devices", "gives no figure"),
        (True, "devices", "gives no figure"),
        ("-5", "devices", "gives no figure"),
        ("2000 $", "price", "measures money"),
    ],
)
def test_refuses_in_a_sentence(text, kind, told):
    with pytest.raises(ConfigError, match=r"here\.toml: ") as caught:
        figure(text, KINDS[kind], "here.toml")
    assert told in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_kind_can_be_written_and_told():
    for name, kind in KINDS.items():
        assert kind.dimension in UNITS, name
        assert kind.told(kind.least) and kind.told(kind.most)
