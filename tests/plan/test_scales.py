"""Other numbers of devices."""

import dataclasses

from homegrown.config import ConfigError
from homegrown.plan.quantity import Interval
from homegrown.plan.scales import scales_of
from tests.plan.made_plan import made_plan

PLAN = made_plan()


def again(devices: int):
    if devices < 10_000:
        raise ConfigError("no layout fits")
    days = 35.3 * 50_000 / devices
    return dataclasses.replace(PLAN, devices=devices, totals={"days": Interval(days, days, days)})


def test_numbers_that_fit_in_order():
    found = scales_of(PLAN, again)
    assert [scale.devices for scale in found] == [12_500, 25_000, 50_000, 100_000]
    assert found[2].figures == PLAN.totals
    assert found[0].figures["days"].value == 4 * 35.3


def test_no_more_than_there_are():
    assert [scale.devices for scale in scales_of(PLAN, again, largest=60_000)] == [12_500, 25_000, 50_000]


def test_few_devices_are_not_split():
    one = dataclasses.replace(PLAN, devices=1)
    assert [scale.devices for scale in scales_of(one, lambda devices: PLAN)] == [1, 2]
