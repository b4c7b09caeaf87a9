"""Plans of training runs: figures that follow from one another, intervals, assumptions, and what cannot be planned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from homegrown.config import ConfigError
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.constants import Constants
from homegrown.plan.course import Course, Leg, course_of
from homegrown.plan.enumerate import BATCH_SLACK
from homegrown.plan.memory import Overheads, memory
from homegrown.plan.pins import Pins
from homegrown.plan.plan import Wishes, plan_training, saved
from homegrown.plan.quantity import EXPECTED
from homegrown.plan.results import Plan
from homegrown.plan.step import step_time

CATALOGUE = Catalogue.load()
SHAPE = CATALOGUE.shape("llama-3-70b")
CLUSTER = CATALOGUE.cluster("hgx-h100")
COURSE = course_of("8K:1T,32K:100B")
WISHES = Wishes(pins=Pins(tp=8, micro_batch=1), batch=8e6, count=3, worlds=24)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_training(SHAPE, CLUSTER, 1000, COURSE, WISHES, command="homegrown plan ...")


class TestFigures:
    def test_follow_from_one_another(self, plan):
        for stage in plan.stages:
            values = {name: figure.value for name, figure in stage.figures.items()}
            layout, time = stage.best.layout, stage.best.time
            assert values["step_s"] == time.seconds
            assert values["tokens_per_s"] == pytest.approx(layout.tokens / time.seconds)
            assert values["tokens_per_s_device"] == pytest.approx(values["tokens_per_s"] / layout.devices)
            assert values["days"] == pytest.approx(stage.tokens / values["tokens_per_s"] / values["goodput"] / 86_400)
            assert values["device_hours"] == pytest.approx(24 * 1000 * values["days"])
            assert values["mfu"] == pytest.approx(values["tflops_device"] / 989)
            assert values["memory"] == stage.best.memory.total
            assert values["usd"] == pytest.approx(values["device_hours"] * CLUSTER.chip.rental.value)

    def test_are_those_of_the_models_behind_them(self, plan):
        machine, constants = CLUSTER.machine(EXPECTED), Constants.at(EXPECTED)
        for stage in plan.stages:
            layout = stage.best.layout
            assert stage.best.time.seconds == step_time(SHAPE, layout, machine, constants).seconds
            assert stage.best.memory == memory(SHAPE, layout, Overheads.at(EXPECTED, constants.skew))
            assert stage.capacity == machine.memory >= stage.best.memory.total

    def test_of_the_run_are_sums_of_the_stages(self, plan):
        for name in ("tokens", "days", "device_hours", "mwh", "usd"):
            assert plan.totals[name].value == pytest.approx(sum(stage.figures[name].value for stage in plan.stages))
        assert plan.totals["tokens"].value == 1.1e12

    def test_have_intervals_around_them(self, plan):
        for figures in (plan.totals, *(stage.figures for stage in plan.stages)):
            for figure in figures.values():
                assert figure.low <= figure.value <= figure.high
            assert figures["days"].low < figures["days"].value < figures["days"].high

    def test_one_world_has_no_intervals(self):
        one = plan_training(SHAPE, CLUSTER, 1000, COURSE, replace(WISHES, worlds=1))
        days = one.totals["days"]
        assert days.low == days.value == days.high


class TestLayouts:
    def test_the_best_come_first_and_are_different(self, plan):
        for stage in plan.stages:
            every = (stage.best, *stage.others)
            assert len(every) == 3
            rates = [candidate.tokens_per_second for candidate in every]
            assert rates == sorted(rates, reverse=True)
            assert len({candidate.layout for candidate in every}) == 3

    def test_pins_and_batch_are_kept(self, plan):
        for stage, leg in zip(plan.stages, COURSE.legs, strict=True):
            layout = stage.best.layout
            assert (layout.tp, layout.micro_batch, layout.sequence) == (8, 1, leg.sequence)
            assert layout.tokens == pytest.approx(8e6, rel=BATCH_SLACK + leg.sequence / 8e6)
            assert layout.devices <= 1000

    def test_more_memory_is_never_slower(self):
        def days(limit: float) -> float:
            return (
                plan_training(SHAPE, CLUSTER, 512, COURSE, replace(WISHES, limit=limit, worlds=1)).totals["days"].value
            )

        assert days(40e9) >= days(60e9) >= days(80e9)

    def test_what_pages_draw_is_there(self, plan):
        for stage in plan.stages:
            assert stage.kernels and stage.limits["memory"] > 0
            assert bool(stage.timeline) == (stage.best.layout.pp > 1)


class TestWords:
    def test_utilisation_has_a_basis(self, plan):
        for stage in plan.stages:
            for word in ("989 TFLOP/s", "bf16", "H100", "package", "causal", "recomputation not counted"):
                assert word in stage.basis

    def test_assumptions_are_said(self, plan):
        said = "\n".join(plan.assumptions)
        for words in ("8.0M tokens a step: as given", "muon with ZeRO-1", "left as spares", "rented by the hour"):
            assert words in said

    def test_tight_memory_is_said(self):
        once = replace(WISHES, worlds=16)
        tight = plan_training(SHAPE, CLUSTER, 512, COURSE, once)
        limit = tight.stages[0].best.memory.total * 1.0001
        said = plan_training(SHAPE, CLUSTER, 512, COURSE, replace(once, limit=limit)).assumptions
        assert any("memory is tight at 8K" in line for line in said)

    def test_a_default_batch_gives_its_reason(self):
        short = plan_training(SHAPE, CLUSTER, 64, Course((Leg(8192, 1e12),), "as given"), Wishes(worlds=1))
        assert any("0.292 C^0.3271" in line for line in short.assumptions)

    def test_progress_goes_up(self):
        told: list[float] = []
        plan_training(SHAPE, CLUSTER, 64, COURSE, replace(WISHES, worlds=1), tick=lambda _, share: told.append(share))
        assert told == sorted(told)
        assert told[-1] == 1.0


class TestRefused:
    @pytest.mark.parametrize(
        ("devices", "changes", "message"),
        [
            (0, {}, "devices = 0: must be at least 1"),
            (8, {}, "llama-3-70b on 8 devices, sequences of 8,192: no layout fits into 85.5 GB of a device"),
            (1000, {"batch": 4000.0}, "batch = 4000 tokens: must hold at least one sequence of 8,192 tokens"),
            (1000, {"limit": 1e9}, "llama-3-70b on 1,000 devices, sequences of 8,192: no layout fits into 1.0 GB"),
            (1000, {"pins": Pins(tp=8, dp=125, micro_batch=3)}, "llama-3-70b on 1,000 devices, sequences of 8,192: no"),
            (1000, {"pins": Pins(precision="fp4")}, "precision = 'fp4': H100"),
        ],
    )
    def test_in_one_sentence(self, devices, changes, message):
        with pytest.raises(ConfigError) as error:
            plan_training(SHAPE, CLUSTER, devices, COURSE, replace(WISHES, **changes))
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["count", "worlds"])
    def test_wishes_for_nothing(self, name):
        with pytest.raises(ConfigError, match=f"{name} = 0: must be at least 1"):
            Wishes(**{name: 0})


def test_a_checkpoint_holds_the_optimizer_wherever_it_lies():
    layout = plan_training(SHAPE, CLUSTER, 512, COURSE, replace(WISHES, worlds=1)).stages[0].best.layout
    device, host = (memory(SHAPE, replace(layout, offload=where)) for where in (False, True))
    assert saved(device) == pytest.approx(device.parts["optimizer"])
    assert saved(host) >= saved(device)
