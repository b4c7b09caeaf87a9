"""What pages draw of a layout agrees with the step's time, its work and its pipeline."""

import dataclasses
from itertools import pairwise

import pytest

from homegrown.plan.catalogue import Catalogue
from homegrown.plan.constants import Constants
from homegrown.plan.drawn import MOST, kernels_of, limits_of, micro_batches_of, spans_of
from homegrown.plan.layout import Layout
from homegrown.plan.quantity import EXPECTED
from homegrown.plan.step import StepModel, step_time

SHAPE = Catalogue.load().shape("gpt-22b")
MACHINE = Catalogue.load().cluster("hgx-a100").machine(EXPECTED)
CONSTANTS = Constants.at(EXPECTED)
LAYOUT = Layout(tp=8, pp=4, dp=2, batch=64, sequence=2048, schedule="1f1b", recompute="none", optimizer="adamw")


MODEL = StepModel(SHAPE, MACHINE, CONSTANTS)


@pytest.fixture(scope="module")
def kernels():
    return kernels_of(MODEL, LAYOUT)


def test_kernels_take_as_long_as_the_step_computes(kernels):
    time = step_time(SHAPE, LAYOUT, MACHINE, CONSTANTS)
    assert sum(kernel.seconds for kernel in kernels) == pytest.approx(sum(time.compute.values()), rel=0.02)


def test_kernels_do_the_work_of_the_slowest_stage(kernels):
    """A quarter of the layers, and the head on the last stage, which is the slowest."""
    tokens = LAYOUT.tokens / LAYOUT.dp / LAYOUT.tp
    own = sum(kernel.flops for kernel in kernels)
    hidden, sequence = SHAPE.hidden, LAYOUT.sequence
    layer = 2 * 12 * hidden**2 + 2 * 2 * hidden * sequence / 2
    for layers in (11, 12):
        work = 3 * tokens * (layers * layer + 2 * hidden * SHAPE.vocab)
        if own == pytest.approx(work, rel=0.02):
            return
    pytest.fail(f"{own:.3g} is no work of 11 or 12 layers and the head")


def test_nothing_is_above_its_roof(kernels):
    limits = limits_of(MODEL)
    assert limits["bf16"] < MACHINE.peak["bf16"]
    assert limits["memory"] < MACHINE.bandwidth
    for kernel in kernels:
        if kernel.flops:
            roof = min(limits[kernel.dtype], limits["memory"] * kernel.flops / kernel.bytes)
            assert kernel.flops / kernel.seconds <= roof * (1 + 1e-9), kernel.name
        else:
            assert kernel.bytes / kernel.seconds <= limits["memory"] * (1 + 1e-9), kernel.name


def test_timeline_is_as_long_as_the_pipeline():
    timeline = spans_of(MODEL, LAYOUT)
    time = step_time(SHAPE, LAYOUT, MACHINE, CONSTANTS)
    around = {"dp"}
    work = sum(time.compute.values()) + sum(seconds for name, seconds in time.exposed.items() if name not in around)
    end = max(span.end for span in timeline)
    assert end == pytest.approx(work + time.bubble, rel=0.02)
    assert {span.kind for span in timeline} == {"forward", "backward"}
    assert len(timeline) == 2 * LAYOUT.pp * LAYOUT.micro_batches
    for device in range(LAYOUT.pp):
        own = sorted((span.start, span.end) for span in timeline if span.device == device)
        assert all(before[1] <= after[0] + 1e-12 for before, after in pairwise(own))


def test_long_timelines_are_those_of_fewer_micro_batches():
    many = dataclasses.replace(LAYOUT, batch=64 * 100)
    assert micro_batches_of(LAYOUT) == LAYOUT.micro_batches
    count = micro_batches_of(many)
    assert count < many.micro_batches
    assert count % (2 * many.pp) == 0
    assert len(spans_of(MODEL, many)) <= MOST


def test_no_pipeline_no_timeline():
    flat = Layout(tp=8, dp=2, batch=16, sequence=2048, recompute="none", optimizer="adamw")
    assert spans_of(MODEL, flat) == ()
