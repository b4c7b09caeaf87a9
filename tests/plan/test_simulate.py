"""The closed form against chance: it was derived, this was played out."""

import time

import numpy as np
import pytest

from homegrown.config import ConfigError
from homegrown.plan.failures import DAY, Failures
from homegrown.plan.goodput import Saving, goodput
from homegrown.plan.simulate import simulate

HOUR, MINUTE = 3600.0, 60.0
NEVER_BY_CHANCE = 4.0
"""Standard errors: one in 16,000 by chance; the seed is fixed, so it is decided once."""

STORAGE = Saving(pause=5, drain=60)
MEMORY = Saving(pause=2, drain=500, memory=True, copy=5)
CASES = {
    "long runs between failures": (Failures(nodes=1 / (3 * HOUR), restart=5 * MINUTE), STORAGE),
    "writes that stop training": (Failures(nodes=1 / HOUR, restart=5 * MINUTE), Saving(pause=60)),
    "restarts as long as runs": (Failures(nodes=1 / (15 * MINUTE), restart=15 * MINUTE), STORAGE),
    "a slow drain": (Failures(nodes=1 / HOUR, restart=MINUTE), Saving(pause=5, drain=20 * MINUTE)),
    "memory": (Failures(nodes=1 / HOUR, restart=4 * MINUTE), MEMORY),
    "memory and pods": (
        Failures(nodes=1 / HOUR, pods=1 / (20 * HOUR), restart=4 * MINUTE, pod_restart=20 * MINUTE), MEMORY,
    ),
    "storage and pods": (
        Failures(nodes=1 / HOUR, pods=1 / (5 * HOUR), restart=4 * MINUTE, pod_restart=40 * MINUTE), STORAGE,
    ),
    "too few spares": (
        Failures(nodes=1 / HOUR, restart=4 * MINUTE, repair=12 * HOUR, spares=8), MEMORY,
    ),
    "pods without spares": (
        Failures(nodes=1 / HOUR, pods=1 / (50 * HOUR), restart=4 * MINUTE, pod_restart=9 * MINUTE,
                 pod_repair=5 * HOUR, spare_pods=0), MEMORY,
    ),
    "everything": (
        Failures(nodes=1 / HOUR, software=1 / (9 * HOUR), pods=1 / (70 * HOUR), restart=4 * MINUTE,
                 pod_restart=19 * MINUTE, repair=24 * HOUR, spares=30, pod_repair=5 * HOUR, spare_pods=0), MEMORY,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_closed_form_agrees_with_chance(case):
    failures, saving = CASES[case]
    plan = goodput(failures, saving)
    long = failures.spares is not None  # a run begins with all its spares, the closed form is about the long run
    outcome = simulate(failures, saving, plan, seconds=(240 if long else 40) * DAY, runs=20 if long else 60)
    assert abs(outcome.mean - plan.share) < NEVER_BY_CHANCE * outcome.error
    assert outcome.error < 0.02
    assert outcome.waiting.mean() == pytest.approx(plan.waiting, abs=0.02)


def test_llama_3_interruptions():
    """419 of them in 54 days on 2,048 nodes (arXiv 2407.21783, section 3.3.4): inside what chance does."""
    failures = Failures(nodes=2048 * 3.79e-3 / DAY, restart=5 * MINUTE)
    outcome = simulate(failures, MEMORY, goodput(failures, MEMORY), seconds=54 * DAY, runs=400)
    low, high = np.quantile(outcome.interruptions, [0.025, 0.975])
    assert low < 419 < high
    assert (low, high) == (pytest.approx(379, abs=8), pytest.approx(459, abs=8))  # Poisson's
    assert outcome.interruptions.var() == pytest.approx(419, rel=0.25)


def test_weeks_differ():
    failures, saving = CASES["everything"]
    outcome = simulate(failures, saving, goodput(failures, saving), seconds=6 * 7 * DAY, runs=20)
    bad, middle, good = outcome.weeks()
    assert len(outcome.weekly) == 120
    assert 0 < bad < middle < good < 1
    assert outcome.weekly.mean() == pytest.approx(outcome.mean)


def test_a_run_shorter_than_a_week_has_no_weeks():
    failures, saving = CASES["memory"]
    assert len(simulate(failures, saving, goodput(failures, saving), seconds=DAY, runs=2).weekly) == 0


def test_nothing_fails():
    outcome = simulate(
        Failures(nodes=0, restart=1), STORAGE, goodput(Failures(nodes=0, restart=1), STORAGE, interval=95),
        seconds=1000, runs=2,
    )  # fmt: skip
    assert list(outcome.goodput) == [0.95, 0.95]
    assert list(outcome.interruptions) == [0, 0]


def test_same_seed_same_runs():
    failures, saving = CASES["everything"]
    first, again, other = (
        simulate(failures, saving, goodput(failures, saving), seconds=9 * DAY, runs=3, seed=seed) for seed in (1, 1, 2)
    )
    assert list(first.goodput) == list(again.goodput)
    assert list(first.goodput) != list(other.goodput)


def test_sixty_days_of_50000_devices_take_no_two_seconds():
    failures = Failures(
        nodes=6250 * 3.79e-3 / DAY, restart=8 * MINUTE, pods=7 * 3e-3 / DAY, pod_restart=20 * MINUTE,
        repair=DAY, spares=50, pod_repair=4 * HOUR,
    )  # fmt: skip
    plan = goodput(failures, MEMORY)
    start = time.perf_counter()
    simulate(failures, MEMORY, plan, seconds=60 * DAY, runs=60)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(("seconds", "runs"), [(0, 9), (-1, 9), (DAY, 1), (float("inf"), 9)])
def test_refuses(seconds, runs):
    failures, saving = CASES["memory"]
    with pytest.raises(ConfigError, match="needs at least 2 runs of more than 0 s"):
        simulate(failures, saving, goodput(failures, saving), seconds=seconds, runs=runs)
