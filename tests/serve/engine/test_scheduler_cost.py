"""Steps are predicted from steps."""

import random

import pytest

from homegrown.serve.engine.cost import CostModel, Work

TRUTH = {"a": 0.004, "b": 3e-4, "c": 2e-3, "d": 4e-9}


def truth(work: Work) -> float:
    return TRUTH["a"] + TRUTH["b"] * work.prefill + TRUTH["c"] * work.rows + TRUTH["d"] * work.keys


def some_work(rng: random.Random) -> Work:
    work = Work()
    for _ in range(rng.randint(0, 20)):
        work = work.with_rows(1, rng.randint(0, 20000))
    if not work.rows or rng.random() < 0.5:
        work = work.with_prompt(rng.randint(16, 512), rng.randint(0, 20000))
    return work


def taught(steps: int, noise: float = 0.05, seed: int = 0) -> CostModel:
    model, rng = CostModel(), random.Random(seed)
    for _ in range(steps):
        work = some_work(rng)
        model.observe(work, truth(work) * rng.gauss(1, noise))
    return model


@pytest.mark.parametrize("seed", range(3))
def test_learns(seed):
    model, rng = taught(60, seed=seed), random.Random(9)
    for _ in range(20):
        work = some_work(rng)
        assert model.seconds(work) == pytest.approx(truth(work), rel=0.15)


def test_a_prompt_that_was_never_seen_alone_is_still_known():
    model, work = CostModel(), Work().with_prompt(512, 0)
    model.observe(work, 0.5)
    assert 0.1 < model.seconds(Work().with_prompt(256, 0)) < 0.5


def test_one_odd_step_changes_little():
    model = taught(60)
    work = Work(200, 4, 100000)
    before = model.seconds(work)
    model.observe(work, 50 * before)
    assert model.seconds(work) < 1.5 * before


def test_follows_a_change():
    model, rng = taught(60), random.Random(1)
    for _ in range(100):
        work = some_work(rng)
        model.observe(work, 3 * truth(work))
    work = Work(200, 4, 100000)
    assert model.seconds(work) == pytest.approx(3 * truth(work), rel=0.2)


def test_remembers_prompts_through_a_long_answer():
    model = taught(60)
    for _ in range(3000):
        work = Work().with_rows(4, 4000)
        model.observe(work, truth(work))
    work = Work().with_prompt(300, 100)
    assert model.seconds(work) == pytest.approx(truth(work), rel=0.5)


def test_affordable():
    model = taught(60)
    rows = Work().with_rows(4, 100)
    count = model.affordable(rows, past=1000, budget=0.05, most=512)
    assert model.seconds(rows.with_prompt(count, 1000)) <= 0.05 < model.seconds(rows.with_prompt(count + 1, 1000))
    assert model.affordable(rows, past=1000, budget=0.0, most=512) == 0
    assert model.affordable(rows, past=1000, budget=9.0, most=512) == 512
    assert model.affordable(rows, past=100_000, budget=0.05, most=512) < count
