"""Layouts: all of them are valid, none that users would expect is missing, and pinned sizes are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from homegrown.config import ConfigError
from homegrown.plan.enumerate import LEAST_TOKENS, MICRO_BATCHES, Space, space_on
from homegrown.plan.facts import Attention, Experts, Layers, Shape
from homegrown.plan.layout import Layout
from homegrown.plan.pins import Pins, divisors

ATTENTION = Attention(kind="gqa", heads=8, kv_heads=4, query=64, value=64)
DENSE = Shape(
    name="dense", title="Dense", hidden=512, vocab=1000, layers=(Layers(count=6, attention=ATTENTION, dense=(2048,)),)
)
SPARSE = replace(
    DENSE,
    name="sparse",
    layers=(
        Layers(count=6, attention=ATTENTION, experts=Experts(routed=12, topk=2, width=256, real=2.0)),
    ),
    ngram_tables=4,
    ngram_rows=10_000,
    ngram_width=128,
)  # fmt: skip


def space(shape: Shape = SPARSE, devices: int = 40, **changes: object) -> Space:
    given = {"domains": (4, 16), "sequence": 1024, "batch": 64, "pins": Pins()} | changes
    return Space(shape=shape, devices=devices, **given)


def layouts(where: Space) -> list[Layout]:
    return [one for frame in where.frames() for fold in where.folds(frame) for one in where.layouts(frame, fold)]


class TestAll:
    @pytest.mark.parametrize("shape", [DENSE, SPARSE], ids=lambda shape: shape.name)
    @pytest.mark.parametrize("devices", [1, 7, 40, 64])
    def test_are_valid(self, shape, devices):
        found = layouts(space(shape, devices))
        assert found
        for one in found:  # `Layout` itself refuses batches, experts and tables that do not divide
            assert one.devices <= devices
            assert 8 % one.tp == 0 and one.sequence % (one.cp * one.tp) == 0
            assert one.cp == 1 or one.sequence % (2 * one.cp * one.tp) == 0
            assert one.pp * one.parts <= 6
            assert 12 % one.ep == 0 if shape is SPARSE else one.ep == one.etp == 1
            assert one.etp in (1, one.tp)
            assert (one.parts > 1) == (one.schedule == "interleaved")
            assert one.schedule != "interleaved" or one.micro_batches % one.pp == 0
            assert one.schedule != "dual" or (one.pp % 2 == 0 and one.micro_batches % 2 == 0)
            assert one.schedule != "dual" or one.micro_batches >= 2 * one.pp
            assert abs(one.batch - 64) <= 0.05 * 64
            assert one.sequence // (one.cp * one.tp) >= LEAST_TOKENS or one.cp == 1
            assert one.micro_batch in MICRO_BATCHES

    def test_are_different(self):
        found = Counter(layouts(space()))
        assert max(found.values()) == 1

    def test_are_those_of_plain_loops(self):
        """All combinations of sizes with one batch are tried, and those that are valid kept: nothing else is found."""
        where = space(SPARSE, 16, slack=0.0, batch=16, domains=(4,))
        found = {
            (x.tp, x.cp, x.pp, x.parts, x.schedule, x.micro_batch, x.ep, x.etp, x.dp)
            for x in layouts(where)
        }  # fmt: skip
        assert found == set(_plainly(16, 16))

    def test_a_layout_uses_all_the_devices_that_it_can(self):
        """No other number of replicas with the same sizes uses more devices and keeps to the batch."""
        for one in layouts(space(SPARSE, 50)):
            inner, each = one.cp * one.tp, one.micro_batch
            unit = one.pp if one.schedule == "interleaved" else 2 if one.schedule == "dual" else 1
            least = 2 * one.pp if one.schedule == "dual" else unit
            for dp in range(one.dp + 1, 50 // (inner * one.pp) + 1):
                batches = range(dp * each * least, 68, dp * each * unit)
                assert dp * inner % (one.ep * one.etp) or not any(61 <= batch <= 67 for batch in batches)


def _plainly(devices: int, batch: int):
    for tp, cp, pp, parts, micro_batch, ep, dp in product(
        (1, 2, 4), (1, 2, 4, 8), range(1, 7), range(1, 7), MICRO_BATCHES, (1, 2, 3, 4, 6, 12), range(1, 17)
    ):
        count, left = divmod(batch, dp * micro_batch)
        if left or tp * cp * pp * dp > devices or pp * parts > 6 or 1024 // (tp * cp) < LEAST_TOKENS:
            continue
        if (parts > 1 and (pp == 1 or count % pp)) or pp * parts not in {1, 2, 3, 4, 6}:
            continue
        for etp, schedule in product({1, tp}, ("1f1b", "interleaved", "zero-bubble", "dual")):
            if (schedule == "interleaved") != (parts > 1) or (pp == 1 and schedule in ("zero-bubble", "dual")):
                continue
            if schedule == "dual" and (pp % 2 or count % 2 or count < 2 * pp):
                continue
            if dp * cp * tp % (ep * etp) == 0 and not _more(
                devices, batch, tp, cp, pp, schedule, micro_batch, ep * etp, dp
            ):
                yield tp, cp, pp, parts, schedule, micro_batch, ep, etp, dp


def _more(devices, batch, tp, cp, pp, schedule, micro_batch, cut, dp) -> bool:
    """Whether more replicas would do as well."""
    for other in range(dp + 1, devices // (tp * cp * pp) + 1):
        count, left = divmod(batch, other * micro_batch)
        unit = pp if schedule == "interleaved" else 2 if schedule == "dual" else 1
        if not left and not count % unit and other * cp * tp % cut == 0 and (schedule != "dual" or count >= 2 * pp):
            return True
    return False


class TestPins:
    @pytest.mark.parametrize(
        ("name", "size"),
        [("tp", 2), ("cp", 4), ("pp", 3), ("dp", 5), ("ep", 6), ("etp", 2), ("embp", 2), ("micro_batch", 3)],
    )
    def test_are_kept(self, name, size):
        found = layouts(space(pins=Pins(**{name: size})))
        assert found
        assert {getattr(one, name) for one in found} == {size}

    def test_are_kept_where_the_search_would_not_go(self):
        """Groups across domains, and uneven pipelines, are a user's to choose."""
        wide = space(domains=(4,), pins=Pins(tp=8, pp=5))
        assert 8 not in {one.tp for one in layouts(space(domains=(4,)))}
        assert {(one.tp, one.pp) for one in layouts(wide)} == {(8, 5)}

    def test_schedule_and_recomputation(self):
        where = space(pins=Pins(schedule="dual", recompute="full"))
        assert {(one.schedule, one.recompute) for one in layouts(where)} == {("dual", "full")}

    def test_an_exact_batch(self):
        found = layouts(space(slack=0.0, batch=60))
        assert {one.batch for one in found} == {60}
        assert max(one.devices for one in found) == 40

    @pytest.mark.parametrize(
        ("pins", "message"),
        [
            ({"tp": 3}, "tp = 3: must divide the 8 attention heads of sparse"),
            ({"tp": -1}, "tp = -1: must be at least 1"),
            ({"cp": 3}, "cp = 3: 2 * cp * tp = 6 must divide the sequence of 1024 tokens"),
            ({"pp": 7}, "pp = 7: 7 pipeline parts are more than the 6 layers of sparse"),
            ({"pp": 3, "parts": 3}, "pp = 3: 9 pipeline parts are more than"),
            ({"parts": 2, "schedule": "1f1b"}, "parts = 2: only the interleaved schedule has several"),
            ({"pp": 3, "schedule": "dual"}, "pp = 3: the dual schedule feeds the pipeline from both ends"),
            ({"pp": 1, "schedule": "zero-bubble"}, "schedule = 'zero-bubble': needs a pipeline"),
            ({"ep": 5}, "ep = 5: must divide the 12 routed experts of sparse"),
            ({"etp": 3}, "etp = 3: must divide the experts' width of 256"),
            ({"tp": 8, "pp": 6}, "tp 8 * pp 6 = 48 devices: there are only 40"),
            ({"dp": 17, "micro_batch": 4}, "dp 17 * micro_batch 4 = 68 sequences a step: the batch has only 67"),
            ({"comm_share": 1.0}, "comm_share = 1: must be a share"),
        ],
    )  # fmt: skip
    def test_that_cannot_be(self, pins, message):
        with pytest.raises(ConfigError) as error:
            space(pins=Pins(**pins))
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)

    def test_of_what_a_model_lacks(self):
        with pytest.raises(ConfigError, match="ep = 2: must divide the 0 routed experts of dense"):
            space(DENSE, pins=Pins(ep=2))
        with pytest.raises(ConfigError, match="embp = 2: dense has no n-gram tables"):
            space(DENSE, pins=Pins(embp=2))

    @pytest.mark.parametrize("name", ["devices", "sequence", "batch"])
    def test_absurd_counts(self, name):
        with pytest.raises(ConfigError, match=f"{name} = 0: must be at least 1"):
            replace(space(), **{name: 0})


def test_the_planned_run_uses_nearly_all_devices():
    from homegrown.plan.catalogue import Catalogue
    from homegrown.plan.shapes import preset_shape

    cluster = Catalogue.load().cluster("atlas-950")
    where = space_on(cluster, preset_shape("longcat-2.0"), 50_000, 8192, 8192, Pins(tp=8, pp=8, ep=64))
    frame = next(frame for frame in where.frames() if frame.cp == 1 and frame.micro_batch == 1)
    assert {frame.model * fold.dp for fold in where.folds(frame)} <= set(range(49_152, 50_001))


def test_divisors():
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
    assert [divisors(number) for number in (1, 2, 7)] == [[1], [1, 2], [1, 7]]
