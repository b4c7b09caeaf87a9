"""Every fault of the drill against real processes: it is noticed, and the run ends with the bits of an undisturbed one.

`pytest -m faults` runs them all again over torch.distributed, and with real training; they take minutes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from homegrown.cli.faults import prepare
from homegrown.supervise.drill import Plan, Row, disturb, left_out, markdown, stage
from homegrown.supervise.faults import FAULTS
from homegrown.supervise.stage import losses

from .conftest import toy_plan


def train_plan(out):
    """A drill of `homegrown train`."""
    config = prepare(out, steps=40)
    flags = ["--hang-after", "5", "--stall-after", "60", "--selftest", "true"]
    return Plan(program=lambda run: [str(config), "--run", str(run)], workers=2, steps=40, flags=flags, out=out)


PLANS = {
    "sockets": (lambda out: toy_plan(out, "sockets"), 3),
    "gloo": (lambda out: toy_plan(out, "gloo"), 1),
    "train": (train_plan, 1),
}
"""What is drilled, and how many faults at a time: the toy over sockets mostly waits."""


@pytest.fixture(scope="module")
def drilled(request, tmp_path_factory):
    """The rows of a drill to come, by fault."""
    plan, at_a_time = PLANS[request.param]
    plan = plan(tmp_path_factory.mktemp(request.param))
    with stage(plan, plan.out / "undisturbed") as straight:
        assert straight.finish() == 0
    assert sorted(losses(straight.run)) == list(range(1, 41))
    with ThreadPoolExecutor(at_a_time) as pool:
        yield {
            name: left_out(plan, fault) or pool.submit(disturb, plan, name, straight.run)
            for name, fault in FAULTS.items()
        }


@pytest.mark.parametrize(
    "drilled",
    [
        "sockets",
        pytest.param("gloo", marks=[pytest.mark.slow, pytest.mark.faults]),
        pytest.param("train", marks=[pytest.mark.slow, pytest.mark.faults]),
    ],
    indirect=True,
)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_survives(drilled, fault):
    if isinstance(drilled[fault], str):
        pytest.skip(drilled[fault])
    row = drilled[fault].result()
    assert row.same, row.remark
    assert row.lost <= 6, "a save every five steps loses no more than those, and the one in which it struck"
    assert 0 <= row.detected <= row.resumed < 90


def test_the_table():
    rows = [
        Row("killed", 0.12, 3, 1.5, True),
        Row("cut off", remark="left out: needs root"),
        Row("hang", same=False, remark="it never came back"),
    ]
    assert markdown(rows) == (
        "| fault | detected after | lost steps | resumed after | same bits as undisturbed |\n"
        "|---|--:|--:|--:|---|\n"
        "| killed | 0.1 s | 3 | 1.5 s | yes |\n"
        "| cut off | - | - | - | left out: needs root |\n"
        "| hang | - | - | - | no: it never came back |\n"
    )


def test_a_drill_that_leaves_a_mark_says_so(tmp_path):
    """A worker whose losses are not the undisturbed run's."""
    plan = toy_plan(tmp_path, "sockets", workers=1, steps=8)
    with stage(plan, tmp_path / "undisturbed") as straight:
        assert straight.finish() == 0
    metrics = tmp_path / "undisturbed" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"step":7,"loss":', '"step":7,"loss":1'))
    assert disturb(plan, "kill", tmp_path / "undisturbed").same is False
