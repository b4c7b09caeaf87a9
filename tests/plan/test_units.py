"""Figures as people write them."""

import re

import pytest

from homegrown.config import ConfigError
from homegrown.plan import units
from homegrown.plan.units import context


@pytest.mark.parametrize(
    ("dimension", "text", "value"),
    [
        (units.PEAK, "989 TFLOP/s", 989e12),
        (units.PEAK, "989TFLOPS", 989e12),
        (units.PEAK, "1504 TOPS", 1504e12),
        (units.PEAK, "4.5 PFLOP/s", 4.5e15),
        (units.MEMORY, "80 GB", 80e9),
        (units.MEMORY, "64 GiB", 64 * 2**30),
        (units.MEMORY, "81559 MiB", 81559 * 2**20),
        (units.BANDWIDTH, "3350 GB/s", 3350e9),
        (units.BANDWIDTH, "3.35 TB/s", 3.35e12),
        (units.BANDWIDTH, "1000 GiB/s", 1000 * 2**30),
        (units.LINK, "400 Gb/s", 50e9),
        (units.LINK, "400 Gbps", 50e9),
        (units.LINK, "400 Gbit/s both ways", 25e9),
        (units.LINK, "450 GB/s one way", 450e9),
        (units.LINK, "900 GB/s both ways", 450e9),
        (units.LINK, "900 GB/s bidirectional", 450e9),
        (units.LINK, "450 GB/s unidirectional", 450e9),
        (units.POWER, "1.2 kW", 1200.0),
        (units.LATENCY, "3.4 us", 3.4e-6),
        (units.LATENCY, "3.4 µs", 3.4e-6),
        (units.TIME, "3.09 h", 3.09 * 3600),
        (units.TIME, "4 y", 4 * 365.25 * 86400),
        (units.SHARE, "80 %", 0.8),
        (units.SHARE, 0.8, 0.8),
        (units.PUE, "1.08", 1.08),
        (units.PUE, 1.08, 1.08),
        (units.FAILURES, "3.79 per 1000 node-days", 3.79e-3),
        (units.POD_FAILURES, "0.005 per pod-day", 0.005),
        (units.RENTAL, "2.95 USD/h", 2.95),
        (units.ENERGY_PRICE, "0.08 USD/kWh", 0.08 / 3.6e6),
        (units.ENERGY, "433 MWh", 433 * 3.6e9),
        (units.WORK, "3.8e25 FLOP", 3.8e25),
        (units.TOKENS, "35T", 35e12),
        (units.TOKENS, "15.6 T tokens", 15.6e12),
        (units.TOKENS, "300 B tokens", 300e9),
        (units.TOKENS, "1,000,000", 1e6),
        (units.TOKENS, 14_800_000_000_000, 14.8e12),
        (units.COUNT, "671B", 671e9),
        (units.money(0.14), "334000 CNY", 46760.0),
        (units.money(0.14), "47 kUSD", 47000.0),
    ],
)
def test_figures(dimension, text, value):
    assert dimension(text, "x") == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("dimension", "text", "expected"),
    [
        (units.MEMORY, 80, "x = 80: needs a unit, as in '80 GB'"),
        (units.MEMORY, "80", "needs a unit"),
        (units.MEMORY, "80 Gb", "Gb is a unit of bits"),
        (units.MEMORY, "80 gb", "'gb' is no unit of a size of memory.*did you mean GB"),
        (units.MEMORY, "80 GB/s", "GB/s is a unit of a rate, but this is a size of memory"),
        (units.MEMORY, "0 GB", "must be positive"),
        (units.MEMORY, "-80 GB", "must be positive"),
        (units.MEMORY, "80 kB", "between 100 MB and 100 TB"),
        (units.MEMORY, "80 PB", "between 100 MB and 100 TB"),
        (units.MEMORY, "eighty GB", "must be a size of memory, as in '80 GB'"),
        (units.MEMORY, "", "must be a size of memory"),
        (units.MEMORY, True, "must be a size of memory"),
        (units.MEMORY, ["80 GB"], "must be a size of memory"),
        (units.MEMORY, float("nan"), "must be a size of memory"),
        (units.MEMORY, float("inf"), "must be a size of memory"),
        (units.BANDWIDTH, "3350 GB", "GB is a unit of an amount of memory"),
        (units.BANDWIDTH, "3350 gb/s", "gb/s may be bits or bytes; write GB/s or Gb/s"),
        (units.LINK, "900 GB/s", "one way or both, as in '900 GB/s one way' or '900 GB/s both ways'"),
        (units.LINK, "400 Gb", "no unit of a rate of links"),
        (units.LINK, 50e9, "needs a unit, as in '450 GB/s one way'"),
        (units.PEAK, "989 TFLOP", "TFLOP is a unit of an amount of work"),
        (units.PEAK, "989 tflop/s", "did you mean TFLOP/s"),
        (units.PEAK, "989 T", "no unit of a peak of computation"),
        (units.POWER, "700 Wh", "Wh is a unit of energy"),
        (units.POWER, "700 kW", "between 0.5 W and 20 kW"),
        (units.ENERGY, "433 MW", "MW is a unit of power"),
        (units.WORK, "3.8e25 FLOP/s", "a rate of work"),
        (units.SHARE, "120 %", "between 0.01 % and 100 %"),
        (units.SHARE, 80, "between 0.01 % and 100 %"),
        (units.PUE, 0.9, "between 1 and 3"),
        (units.FAILURES, "3.79 per node-day", "between 0.001 per 1000 node-days and 1 per node-day"),
        (units.FAILURES, "3.79", "needs a unit, as in '3.79 per 1000 node-days'"),
        (units.RENTAL, "2.95", "needs a unit, as in '2.95 USD/h'"),
        (units.TOKENS, "35Q", "no unit of a number of tokens"),
        (units.TOKENS, "0", "must be positive"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(dimension, text, expected):
    with pytest.raises(ConfigError) as error:
        dimension(text, "mine.toml: x")
    message = str(error.value)
    assert message.startswith("mine.toml: x = ")
    assert re.search(expected, message), message


def test_context_lengths_are_binary():
    assert [context(text, "x") for text in ("8K", "128k", "1M", 8192, "131072")] == [8192, 131072, 2**20, 8192, 131072]
    with pytest.raises(ConfigError, match="whole number of tokens"):
        context("8191.5", "x")
    with pytest.raises(ConfigError, match="'B' is no unit of a length of context"):
        context("8B", "x")
