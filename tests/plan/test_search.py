"""The search against looking at everything: the same best layouts, and bounds that nothing goes below."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import pytest

from homegrown.plan.bounds import Bounds
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.constants import Constants
from homegrown.plan.enumerate import Frame, Space, space_on
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.layout import Layout
from homegrown.plan.memory import Overheads, memory, stage_memory
from homegrown.plan.pins import Pins
from homegrown.plan.quantity import EXPECTED
from homegrown.plan.search import search
from homegrown.plan.shapes import preset_shape
from homegrown.plan.step import StepModel

CATALOGUE = Catalogue.load()
OVERHEADS = Overheads.at(EXPECTED, Constants.at(EXPECTED).skew)


def case(
    name: str, cluster: str, devices: int, sequence: int, batch: int, pins: Pins
) -> tuple[Space, StepModel, float]:
    where = CATALOGUE.cluster(cluster)
    machine = where.machine(EXPECTED)
    shape = CASE_SHAPES[name]
    model = StepModel(shape, machine, Constants.at(EXPECTED))
    return space_on(where, shape, devices, sequence, batch, pins), model, machine.memory


def thin(shape: Shape, layers: int) -> Shape:
    """A model with fewer layers, so that everything can be looked at."""
    first, *others = shape.layers
    kept = [replace(first, count=max(1, layers - 2 * bool(others)))]
    return replace(shape, layers=(*kept, *(replace(group, count=2) for group in others[:1])))


CASE_SHAPES = {
    "dense": thin(CATALOGUE.shape("llama-3-70b"), 5),
    "experts": thin(CATALOGUE.shape("deepseek-v3"), 4),
    "family": thin(preset_shape("longcat-2.0"), 3),
}
CASES = {
    "dense": case("dense", "hgx-h100", 24, 8192, 24, Pins()),
    "dense, narrow": case("dense", "hgx-a100", 16, 8192, 16, Pins(micro_batch=1)),
    "experts": case("experts", "hgx-h800", 48, 4096, 48, Pins(precision="fp8", micro_batch=1, tp=1)),
    "experts, cut": case("experts", "hgx-h800", 32, 4096, 32, Pins(micro_batch=2, cp=1)),
    "family": case("family", "atlas-950", 96, 8192, 48, Pins(micro_batch=1, cp=2)),
    "family, long": case("family", "cloudmatrix-384", 64, 131072, 4, Pins(micro_batch=1, tp=2)),
}  # fmt: skip


def everything(space: Space) -> list[tuple[Frame, Layout]]:
    return [
        (frame, replace(layout, recompute=recompute))
        for frame in space.frames()
        for fold in space.folds(frame)
        for layout in space.layouts(frame, fold)
        for recompute in space.recomputes()
    ]


@pytest.fixture(params=CASES)
def small(request) -> tuple[Space, StepModel, float]:
    return CASES[request.param]


def paces(space: Space, model: StepModel, limit: float) -> dict[object, float]:
    """Seconds of a token of the best layout of each sort, all looked at."""
    best: dict[object, float] = {}
    for frame, layout in everything(space):
        if memory(space.shape, layout, OVERHEADS).total <= limit:
            time = model.step_time(layout)
            best[frame.sort] = min(best.get(frame.sort, float("inf")), time.seconds / time.tokens)
    return best


class TestAgainstEverything:
    @pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
    def test_the_best_are_the_same(self, small, share):
        space, model, device = small
        limit = share * device
        wanted = sorted(paces(space, model, limit).values())[:5]
        found = search(space, model, OVERHEADS, limit, count=5)
        assert [one.time.seconds / one.time.tokens for one in found.best] == pytest.approx(wanted, rel=1e-12)
        assert all(one.memory.total <= limit for one in found.best)
        assert found.considered <= len(everything(space))

    def test_what_is_reported_is_so(self, small):
        space, model, limit = small
        for one in search(space, model, OVERHEADS, limit).best:
            assert one.memory == memory(space.shape, one.layout, OVERHEADS)
            assert one.time.seconds == model.step_time(one.layout).seconds

    def test_nothing_fits(self, small):
        space, model, _ = small
        found = search(space, model, OVERHEADS, 1e9)
        assert found.best == ()
        smallest = min(memory(space.shape, layout, OVERHEADS).total for _, layout in everything(space))
        assert 1e9 < found.smallest <= smallest


class TestBounds:
    def test_no_layout_goes_below_them(self, small):
        space, model, _ = small
        bounds = Bounds(space, model, lambda layout: stage_memory(space.shape, layout, OVERHEADS))
        for frame in space.frames():
            of_frame, folds = bounds.of_frame(frame), list(space.folds(frame))
            floor = bounds.memory(frame, folds)
            for fold in folds:
                rough, sharp = bounds.of_fold_at_least(frame, fold), bounds.of_fold(frame, fold)
                assert of_frame <= rough * (1 + 1e-12)
                for layout in space.layouts(frame, fold):
                    each = [model.step_time(replace(layout, recompute=way)) for way in space.recomputes()]
                    actual = min(one.seconds for one in each) / layout.tokens
                    assert rough <= actual and sharp <= actual
                    need = [
                        memory(space.shape, replace(layout, recompute=way), OVERHEADS).total
                        for way in space.recomputes()
                    ]
                    assert floor.of(fold.spread) <= min(need) * (1 + 1e-12)

    def test_recomputation_saves_memory_and_costs_more_than_gradients_could_hide(self, small):
        space, model, _ = small
        for frame in space.frames():
            for fold in space.folds(frame):
                for layout in space.layouts(frame, fold):
                    ways = [replace(layout, recompute=recompute) for recompute in space.recomputes()]
                    times = [model.step_time(one) for one in ways]
                    for less, more in pairwise(times):
                        assert more.seconds >= (less.seconds - less.exposed.get("dp", 0.0)) * (1 - 1e-12)
                    needs = [memory(space.shape, one, OVERHEADS).total for one in ways]
                    assert needs == sorted(needs, reverse=True)


class TestCost:
    def test_grows_no_faster_than_the_number_of_layouts(self):
        """Time for a frame is about the same in a small and in a large space; machines are noisy, so with room."""
        cluster: Cluster = CATALOGUE.cluster("hgx-h800")
        shape = CATALOGUE.shape("deepseek-v3")
        machine = cluster.machine(EXPECTED)
        each = []
        for pins in (Pins(precision="fp8", pp=16), Pins(precision="fp8")):
            space = space_on(cluster, shape, 2048, 4096, 15_360, pins)
            begun = time.process_time()
            found = search(space, StepModel(shape, machine, Constants.at(EXPECTED)), OVERHEADS, machine.memory)
            each.append((time.process_time() - begun) / found.frames)
        assert each[1] < 2 * each[0]

    def test_tells_its_progress(self, small):
        space, model, limit = small
        told: list[float] = []
        search(space, model, OVERHEADS, limit, tick=told.append)
        assert all(0 <= share <= 1 for share in told)


def test_a_pinned_layout_is_the_only_one():
    pins = Pins(tp=2, cp=1, pp=2, dp=4, parts=1, micro_batch=1, schedule="1f1b", recompute="selective")
    space, model, limit = case("dense", "hgx-h100", 24, 8192, 24, pins)
    (one,) = search(space, model, OVERHEADS, limit).best
    assert (one.layout.devices, one.layout.recompute, one.layout.batch) == (16, "selective", 24)


def test_pins_that_leave_nothing():
    space, model, limit = case("dense", "hgx-h100", 24, 8192, 24, Pins(dp=7, micro_batch=1, pp=2))
    found = search(space, model, OVERHEADS, limit)
    assert (found.best, found.considered, found.smallest) == ((), 0, 0.0)
