"""The controllers beside the gradient: which steps are dropped, and how expert biases move."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from homegrown.config import ControllerConfig, GuardConfig
from homegrown.model import Longcat
from homegrown.train.control import BiasController, StepGuard
from homegrown.train.run import Workbench

from . import tiny
from .test_step import changed, state

CPU = torch.device("cpu")


def verdicts(guard: StepGuard, values: list[tuple[float, float]]) -> list[bool]:
    """What the guard says of (loss, norm) pairs, one after the other."""
    return [bool(guard.judge(torch.tensor(loss), torch.tensor(norm))) for loss, norm in values]


def expected_verdicts(config: GuardConfig, values: list[tuple[float, float]]) -> list[bool]:
    """The same from the definition, over a plain list of finite pairs, outliers cut to the limit they exceeded."""
    seen: list[np.ndarray] = []
    answers = []
    for pair in values:
        if not all(map(math.isfinite, pair)):
            answers.append(False)
            continue
        value = np.float32(pair).astype(np.float64)
        limit = np.full(2, np.inf)
        if config.sigma > 0 and len(seen) >= config.min_history:
            recent = np.array(seen[-config.window :])
            mean, deviation = recent.mean(0), np.maximum(recent.std(0), recent.mean(0) * [0.02, 0.5])
            limit = mean + config.sigma * deviation
        answers.append(bool((value <= limit).all()))
        seen.append(np.minimum(value, limit))
    return answers


# The guard


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("sigma", [0.0, 6.0])
def test_what_is_not_finite_is_dropped_from_the_first_step_on(bad, which, sigma):
    pair = (bad, 1.0) if which == 0 else (3.0, bad)
    guard = StepGuard(GuardConfig(window=4, min_history=2, sigma=sigma), CPU)
    assert verdicts(guard, [pair, (3.0, 1.0), pair, (3.0, 1.0), pair]) == [False, True, False, True, False]


@pytest.mark.parametrize("seed", range(4))
def test_guard_agrees_with_the_definition(seed):
    """Noise of growing size with outliers and non-finite values, through several turns of the window."""
    rng = random.Random(seed)
    values = []
    for step in range(120):
        loss, norm = 3.0 + rng.gauss(0, 0.02 + step / 800), abs(rng.gauss(1, 0.1 + step / 200))
        factor = rng.choice([1.0] * 12 + [1.3, 4.0, math.nan, math.inf])
        values.append((loss * factor, norm) if rng.random() < 0.5 else (loss, norm * factor))
    config = GuardConfig(window=rng.choice([5, 16, 40]), min_history=rng.choice([1, 3, 10]), sigma=4.0)
    answers = verdicts(StepGuard(config, CPU), values)
    assert answers == expected_verdicts(config, values)
    assert {True, False} <= set(answers)


def test_only_what_lies_above_is_an_outlier():
    """A calm history has deviation zero; then 2 % of the loss and half the norm stand for one deviation."""
    config = GuardConfig(window=8, min_history=4, sigma=5.0)
    calm = [(2.0, 1.0)] * 4

    def next_one(pair: tuple[float, float]) -> bool:
        return verdicts(StepGuard(config, CPU), [*calm, pair])[-1]

    assert next_one((0.1, 0.0))
    assert next_one((2.19, 1.0))
    assert not next_one((2.21, 1.0))
    assert next_one((2.0, 3.4))
    assert not next_one((2.0, 3.6))


def test_the_range_counts_only_when_it_is_long_enough():
    config = GuardConfig(window=8, min_history=3, sigma=6.0)
    values = [(1.0, 1.0), (9.0, 1.0), (1.0, 1.0), (99.0, 1.0)]
    assert verdicts(StepGuard(config, CPU), values) == [True, True, True, False]
    assert all(verdicts(StepGuard(GuardConfig(min_history=3, sigma=0.0), CPU), [(1.0, 1.0)] * 5 + [(1e9, 1e9)]))


def test_an_outlier_does_not_make_room_for_the_next():
    guard = StepGuard(GuardConfig(window=8, min_history=4, sigma=6.0), CPU)
    assert verdicts(guard, [(2.0, 1.0)] * 8 + [(50.0, 1.0), (2.0, 1.0), (3.0, 1.0)]) == [True] * 8 + [
        False,
        True,
        False,
    ]


def test_a_lasting_shift_is_accepted_in_time():
    guard = StepGuard(GuardConfig(window=8, min_history=4, sigma=6.0), CPU)
    answers = verdicts(guard, [(2.0, 1.0)] * 8 + [(4.0, 1.0)] * 20)
    assert answers[8:11] == [False] * 3
    assert all(answers[18:])


def test_old_values_leave_the_window():
    """A high beginning is forgotten after `window` kept steps: 3.0 is ordinary first and an outlier then."""
    guard = StepGuard(GuardConfig(window=6, min_history=2, sigma=6.0), CPU)
    start = verdicts(guard, [(3.0, 1.0), (2.0, 1.0), (3.0, 1.0)])
    assert start == [True] * 3
    assert verdicts(guard, [(2.0, 1.0)] * 6 + [(3.0, 1.0)])[-1] is False


def test_guard_continues_from_its_saved_range():
    config = GuardConfig(window=5, min_history=2, sigma=6.0)
    values = [(2.0 + 0.01 * step, 1.0) for step in range(7)]
    straight, saved = StepGuard(config, CPU), StepGuard(config, CPU)
    verdicts(straight, values)
    verdicts(saved, values)
    resumed = StepGuard(config, CPU)
    resumed.load_state_dict({name: tensor.clone() for name, tensor in saved.state_dict().items()})
    later = [(2.1, 1.0), (9.0, 1.0), (2.2, 9.0), (2.0, 1.0), (2.5, 1.0)]
    assert verdicts(resumed, later) == verdicts(straight, later)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


# A dropped step


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_dropped_step_leaves_every_bit_as_it_was(dataset, precision):
    """One embedding row turns NaN during one forward pass: loss and gradients are NaN, and nothing of it stays."""
    bench, twin = (Workbench(tiny.train_config(dataset.path, precision=precision)) for _ in range(2))
    for step in (1, 2):
        bench.stepper.step(step, bench.batches.batch(step - 1))
        twin.stepper.step(step, twin.batches.batch(step - 1))
    before = state(bench)

    def spoil(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        spoiled = output.clone()
        spoiled[0, 3] = math.nan
        return spoiled

    handle = bench.model.embed_tokens.register_forward_hook(spoil)
    result = bench.stepper.step(3, bench.batches.batch(2))
    handle.remove()
    assert result.keep.item() == 0
    assert not math.isfinite(result.terms["total"].item())
    assert not math.isfinite(result.grad_norm.item())
    assert changed(before, state(bench)) == []
    assert all(parameter.grad is None for parameter in bench.model.parameters())

    good, same = bench.stepper.step(4, bench.batches.batch(3)), twin.stepper.step(4, twin.batches.batch(3))
    assert good.keep.item() == 1
    assert changed(state(twin), state(bench)) == [], "as if the bad step had not been"
    assert good.terms["total"].item() == same.terms["total"].item()


def test_an_outlier_is_dropped_whole(dataset):
    """Finite, but the loss is far outside: the head's input is scaled a hundredfold during one step."""
    config = tiny.replaced(tiny.train_config(dataset.path, steps=12), guard__min_history=3, guard__window=4)
    bench = Workbench(config)
    for step in range(1, 5):
        assert bench.stepper.step(step, bench.batches.batch(step - 1)).keep.item() == 1
    before = state(bench)
    handle = bench.model.norm.register_forward_hook(lambda module, inputs, output: 100 * output)
    result = bench.stepper.step(5, bench.batches.batch(4))
    handle.remove()
    assert math.isfinite(result.terms["total"].item())
    assert math.isfinite(result.grad_norm.item())
    assert result.keep.item() == 0
    # The guard alone learns of it, as the least outlier there is.
    assert set(changed(before, state(bench))) == {"guard/history", "guard/seen"}


@pytest.mark.parametrize("start", [0.5, 0.0])
def test_the_guard_lets_the_draft_head_join(dataset, start):
    """Its loss raises the total by far more than the range of the steps before; later losses are judged again."""
    config = tiny.train_config(dataset.path, steps=40)
    config = tiny.replaced(config, loss__mtp_start=start, loss__mtp=1.0, loss__mtp_final=1.0)
    config = tiny.replaced(config, guard__min_history=8, guard__window=16, data__micro_batch=4)
    bench = Workbench(config)
    results = [bench.stepper.step(step, bench.batches.batch(step - 1)) for step in range(1, 33)]
    assert [result.step for result in results if result.keep.item() == 0] == []
    assert results[-1].terms["total"].item() > results[-1].terms["lm"].item() + 2
    handle = bench.model.norm.register_forward_hook(lambda module, inputs, output: 100 * output)
    assert bench.stepper.step(33, bench.batches.batch(32)).keep.item() == 0
    handle.remove()


# The expert bias


def controlled(**changes: Any) -> tuple[Longcat, BiasController]:
    model = Longcat(tiny.model_config())
    model.init_weights(0)
    routers = dict(enumerate(model.routers()))
    return model, BiasController(routers, model.config, ControllerConfig(**changes))


def biases(model: Longcat) -> np.ndarray:
    return np.stack([router.e_score_correction_bias.numpy().copy() for router in model.routers()])


def test_bias_follows_the_formula():
    """Δb_i = μ (K_e / (K N) − T_i / (K T)) for routed experts, nothing for zero experts, μ on its straight line."""
    model, controller = controlled(target_experts=1.7, mu=0.4, mu_final=0.1)
    expected, tokens = np.zeros((2, 9)), 128
    generator = np.random.default_rng(0)
    for progress in (0.0, 0.25, 1.0):
        counts = generator.multinomial(3 * tokens, np.full(9, 1 / 9), size=2)
        controller.update(torch.from_numpy(counts), tokens, progress, torch.ones(()))
        mu = 0.4 - 0.3 * progress
        expected[:, :6] += mu * (1.7 / (3 * 6) - counts[:, :6] / (3 * tokens))
    np.testing.assert_allclose(biases(model), expected, rtol=1e-5, atol=1e-7)
    assert (biases(model)[:, 6:] == 0).all()


def test_bias_rests_at_balance_and_when_the_step_is_dropped():
    model, controller = controlled(target_experts=1.5, mu=1.0)
    level = torch.tensor([[32] * 6 + [64] * 3] * 2)  # 1.5 real experts for each of 128 tokens
    controller.update(level, 128, 0.0, torch.ones(()))
    np.testing.assert_allclose(biases(model), 0, atol=1e-8)
    controller.update(torch.tensor([[384] + [0] * 8] * 2), 128, 0.0, torch.zeros(()))
    np.testing.assert_allclose(biases(model), 0, atol=1e-8)


def test_target_defaults_to_the_share_of_uniform_routing():
    assert controlled()[1].target == pytest.approx(3 * 6 / 9)
    assert controlled(target_experts=1.25)[1].target == 1.25


# The device is not waited for


class NoHostReads(TorchDispatchMode):
    """Refuses every operator that hands a tensor's value to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        if name in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2"):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def test_controllers_read_nothing_on_the_host():
    controller = controlled(mu=0.1)[1]
    guard = StepGuard(GuardConfig(window=4, min_history=1), CPU)
    loss, norm = torch.tensor(2.0), torch.tensor(math.nan)
    counts = torch.ones(2, 9, dtype=torch.int64)
    with NoHostReads():
        for _ in range(3):
            keep = guard.judge(loss, norm)
            controller.update(counts, 9, 0.5, keep)
        guard.forget()
    assert keep.item() == 0
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoHostReads():
        float(loss)
