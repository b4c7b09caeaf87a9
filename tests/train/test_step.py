"""One optimizer step: the same bits every time, the same mathematics however the batch is cut."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from homegrown.config import MtpConfig, SparseConfig, TrainConfig, to_toml
from homegrown.data import Batch, TokenDataset
from homegrown.model import Longcat
from homegrown.train.losses import count_targets, plan_losses
from homegrown.train.run import Workbench
from homegrown.train.step import Stepper, StepResult

from . import tiny


def steps(bench: Workbench, last: int, first: int = 1) -> list[StepResult]:
    return [bench.stepper.step(step, bench.batches.batch(step - 1)) for step in range(first, last + 1)]


def bits(results: Iterable[StepResult]) -> list[str]:
    """Every term and the gradient norm of every step, exactly."""
    return [" ".join(float(value).hex() for value in [*result.terms.values(), result.grad_norm]) for result in results]


def state(bench: Workbench) -> dict[str, bytes]:
    """Everything a checkpoint would hold, to the last bit (signs of zeros included)."""
    tensors = bench.stepper.wanted()
    return {name: tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name in before if before[name] != after[name]]


# Determinism


def test_same_configuration_same_bits(dataset):
    one, two = (Workbench(tiny.train_config(dataset.path)) for _ in range(2))
    assert bits(steps(one, 4)) == bits(steps(two, 4))
    assert changed(state(one), state(two)) == []


def test_another_seed_is_another_run(dataset):
    one, two = (Workbench(tiny.train_config(dataset.path, seed=seed)) for seed in (0, 1))
    assert not set(bits(steps(one, 2))) & set(bits(steps(two, 2)))


SCRIPT = """
import sys
from pathlib import Path
from homegrown.config import TrainConfig, build, read_toml
from homegrown.train.run import Workbench
bench = Workbench(build(TrainConfig, read_toml(Path(sys.argv[1])), sys.argv[1]))
for step in range(1, 3):
    result = bench.stepper.step(step, bench.batches.batch(step - 1))
    print(*(float(value).hex() for value in [*result.terms.values(), result.grad_norm]))
"""


def in_a_fresh_process(config: TrainConfig, folder: Path) -> list[str]:
    file = folder / "config.toml"
    file.write_text(to_toml(config))
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["OMP_WAIT_POLICY"] = "passive"  # on a busy machine threads that spin wait for long
    command = [sys.executable, "-c", SCRIPT, file]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def large_enough(dataset: TokenDataset, threads: int) -> TrainConfig:
    """For PyTorch's kernels to split their work between two threads."""
    model = tiny.model_config(hidden_size=96, num_layers=1, ffn_hidden_size=192, mtp=MtpConfig(layers=1))
    config = tiny.train_config(dataset.path, threads=threads, model=model)
    return tiny.replaced(config, data__seq_len=128, data__micro_batch=4)


def test_a_fresh_process_computes_the_same_bits(dataset, tmp_path):
    config = large_enough(dataset, threads=1)
    assert in_a_fresh_process(config, tmp_path) == bits(steps(Workbench(config), 2))


def test_two_threads_compute_the_same_bits_in_every_process(dataset, tmp_path):
    config = large_enough(dataset, threads=2)
    first = in_a_fresh_process(config, tmp_path)
    assert len(first) == 2
    assert in_a_fresh_process(config, tmp_path) == first


# However the global batch is cut


class Recorder:
    """In the optimizer's place: keeps the gradients of a step instead of applying them."""

    def __init__(self, model: Longcat) -> None:
        self.model, self.gradients = model, {}

    def reduce(self, *arguments: Any) -> None:
        pass

    def grad_norm(self) -> Tensor:
        return torch.ones(())

    def step(self, *arguments: Any) -> None:
        found = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        self.gradients = {name: grad.to_dense().clone() for name, grad in found.items() if grad is not None}

    def zero_grad(self) -> None:
        self.model.zero_grad()


def one_step(config: TrainConfig, batch: Batch, dtype: torch.dtype) -> tuple[StepResult, dict[str, Tensor]]:
    """A step of fresh weights in `dtype`, and its gradients."""
    bench = Workbench(tiny.replaced(config, precision=str(dtype).removeprefix("torch.")))
    recorder = Recorder(bench.model)
    return Stepper(bench.assembly, recorder, config, bench.device).step(1, batch), recorder.gradients


def batch_of(config: TrainConfig) -> Batch:
    return Workbench(config).batches.batch(0)


@pytest.mark.parametrize("micro", [2, 1])
def test_micro_batches_add_up(dataset, micro):
    """Without the balance loss, which is defined on micro-batches (arXiv 2509.01322 section 2), a step is the same
    whether its four rows go through the model together, in pairs or one by one. In float64 gradients agree to a few
    roundings; the terms are reported in float32."""
    whole = tiny.replaced(tiny.train_config(dataset.path), data__micro_batch=4, loss__balance=0.0)
    cut = tiny.replaced(whole, data__micro_batch=micro)
    batch = batch_of(whole)
    assert len(np.unique(batch.first)) > 2, "documents should begin inside of rows"
    expected, expected_gradients = one_step(whole, batch, torch.float64)
    found, gradients = one_step(cut, batch, torch.float64)
    for name, value in expected.terms.items():
        assert found.terms[name].item() == pytest.approx(value.item(), rel=1e-6), name
    assert torch.equal(found.counts, expected.counts)
    torch.testing.assert_close(found.health, torch.zeros_like(found.health), rtol=0, atol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-10, atol=1e-14), name


def test_balance_is_the_mean_over_micro_batches(dataset):
    """Σ_j f_j P_j from counts and probabilities of each micro-batch, written out from the paper."""
    config = tiny.replaced(tiny.train_config(dataset.path), data__micro_batch=1)
    config = tiny.replaced(config, loss__balance_groups=2, loss__balance=0.5)
    batch, model = batch_of(config), config.model
    found, _ = one_step(config, batch, torch.float64)
    reference = Longcat(model)
    reference.init_weights(config.seed)
    reference.double()
    routed, zero, topk, groups = model.n_routed_experts, model.zero_expert_num, model.moe_topk, 2
    target = topk * routed / (routed + zero)
    total = 0.0
    for row in range(4):
        tokens = torch.from_numpy(batch.tokens[row : row + 1, :-1])
        context = reference.context(tokens, torch.from_numpy(batch.first[row : row + 1, :-1]))
        for layer in reference.trunk(tokens, context).routing:
            count, chosen = tokens.numel(), layer.index_NK.numpy()
            share = layer.prob_sum.detach().numpy() / count
            for group in range(groups):
                members = range(group * routed // groups, (group + 1) * routed // groups)
                slots = np.isin(chosen, members).sum()
                total += groups / (target * count) * slots * share[list(members)].sum()
            total += (chosen >= routed).sum() / ((topk - target) * count) * share[routed:].sum()
    assert found.terms["balance"].item() == pytest.approx(0.5 * total / 4, rel=1e-6)


def test_terms_make_up_the_total(dataset):
    config = tiny.replaced(tiny.train_config(dataset.path), loss__z=1e-3, loss__indexer=0.7, loss__mtp=0.25)
    terms = {name: value.item() for name, value in one_step(config, batch_of(config), torch.float32)[0].terms.items()}
    assert min(terms.values()) > 0
    total = terms["lm"] + 0.25 * terms["mtp"] + terms["balance"] + terms["z"] + 0.7 * terms["indexer"]
    assert terms["total"] == pytest.approx(total, rel=1e-6)


# Recomputation


def test_recomputation_changes_no_bit(dataset):
    """Not of losses and gradients, and experts are counted once."""
    config = tiny.train_config(dataset.path)
    batch = batch_of(config)
    kept, kept_gradients = one_step(config, batch, torch.float32)
    again, again_gradients = one_step(tiny.replaced(config, recompute="full"), batch, torch.float32)
    assert bits([kept]) == bits([again])
    assert torch.equal(kept.counts, again.counts)
    assert torch.equal(kept.health, again.health)
    assert kept_gradients.keys() == again_gradients.keys()
    assert [name for name in kept_gradients if not torch.equal(kept_gradients[name], again_gradients[name])] == []


# Counts and their control


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_counts_are_those_of_a_forward_pass(dataset, recompute):
    config = tiny.train_config(dataset.path, recompute=recompute)
    batch, model = batch_of(config), config.model
    found, _ = one_step(config, batch, torch.float32)
    reference = Longcat(model)
    reference.init_weights(config.seed)
    expected = np.zeros((model.num_layers, model.n_routed_experts + model.zero_expert_num), np.int64)
    for row in (slice(0, 2), slice(2, 4)):
        tokens, first = torch.from_numpy(batch.tokens[row, :-1]), torch.from_numpy(batch.first[row, :-1])
        with torch.no_grad():
            routing = reference.trunk(tokens, reference.context(tokens, first)).routing
        for layer, decided in enumerate(routing):
            np.add.at(expected[layer], decided.index_NK.numpy().reshape(-1), 1)
    assert found.counts.tolist() == expected.tolist()
    assert found.counts.sum().item() == model.num_layers * batch.tokens[:, 1:].size * model.moe_topk


@pytest.mark.parametrize("target", [1.2, 2.5])
def test_the_mean_number_of_real_experts_settles_on_its_target(dataset, target):
    """From 2 of 3 at the start; the last steps' mean is within a twentieth of a slot of K_e."""
    config = tiny.train_config(
        dataset.path, steps=60, seed=1, model=tiny.model_config(num_layers=1, mtp=MtpConfig(), sparse=SparseConfig())
    )
    config = tiny.replaced(config, controller__target_experts=target, controller__mu=1.0, data__micro_batch=4)
    bench = Workbench(config)
    routed = config.model.n_routed_experts
    real = [result.counts[:, :routed].sum().item() / result.tokens for result in steps(bench, 60)]
    assert abs(real[0] - target) > 0.25
    assert np.mean(real[-15:]) == pytest.approx(target, abs=0.1)
    assert np.abs(np.array(real[-15:]) - target).max() < 0.5


# What trains when


def masters(keys: list[str]) -> set[str]:
    """Parameters whose weights are among these keys of a state."""
    return {key.partition("@")[0] for key in keys if key.endswith("/master")}


def test_dense_warm_up_trains_the_indexers_alone(dataset):
    config = tiny.replaced(tiny.train_config(dataset.path), loss__indexer_stage="dense", loss__indexer_every=2)
    bench = Workbench(config)
    before = state(bench)
    results = steps(bench, 4)
    moved = masters(changed(before, state(bench)))
    assert moved == {name for name, _ in bench.model.named_parameters() if ".indexer." in name}
    assert any(name.startswith("mtp.") for name in moved)
    losses = [result.terms["indexer"].item() for result in results]
    assert min(losses) > 0, "every step has the indexers' loss, whatever indexer_every says: there is no other"
    assert [result.terms["total"].item() for result in results] == losses
    assert all(result.keep.item() == 1 and result.health.max().item() == 0 for result in results)


def test_the_indexers_learn_at_every_nth_step(dataset):
    config = tiny.replaced(tiny.train_config(dataset.path), loss__indexer_every=3)
    bench = Workbench(config)
    for step in range(1, 7):
        before = state(bench)
        result = steps(bench, step, step)[0]
        moved = [name for name in masters(changed(before, state(bench))) if ".indexer." in name]
        assert (result.terms["indexer"].item() > 0) == (step % 3 == 0)
        assert bool(moved) == (step % 3 == 0), "without a gradient not even decay moves them"
        assert (result.plan.index_loss == "sparse") == (step % 3 == 0)


def test_the_draft_head_joins_when_it_should(dataset):
    """From 40 % of the run on, with a weight that goes from 0.4 (step 1) to 0.2 (step 11) in a straight line."""
    config = tiny.train_config(dataset.path, steps=11)
    config = tiny.replaced(config, loss__mtp=0.4, loss__mtp_final=0.2, loss__mtp_start=0.4, loss__z=0.0)
    bench = Workbench(config)
    for step in range(1, 12):
        before = state(bench)
        result = steps(bench, step, step)[0]
        moved = [name for name in masters(changed(before, state(bench))) if name.startswith("mtp.")]
        trained = [name for name in moved if ".indexer." not in name]
        drafts = step >= 5
        weight = 0.4 - 0.2 * (step - 1) / 10 if drafts else 0.0
        terms = {name: value.item() for name, value in result.terms.items()}
        assert len(result.plan.draft_targets) == (2 if drafts else 0)
        assert (terms["mtp"] > 0, bool(trained)) == (drafts, drafts)
        assert terms["total"] == pytest.approx(
            terms["lm"] + weight * terms["mtp"] + terms["balance"] + terms["indexer"], rel=1e-5
        )


def test_targets_stay_within_their_document():
    """Two documents in a row of six inputs: tokens 0-3 and 4-6."""
    first = torch.tensor([[0, 0, 0, 0, 4, 4, 4]])
    model, config = tiny.model_config(), tiny.train_config(Path("unused")).loss
    plan = plan_losses(config, model, 2.0, count_targets(first, model), 1, 1, 10)
    assert plan.targets == 5  # 1 2 3 | 5 6
    assert plan.draft_targets == (3, 1)  # 2 3 | 6 and 3


def test_a_head_that_never_trains_costs_nothing(dataset):
    for changes in ({"loss__mtp": 0.0, "loss__mtp_final": 0.0}, {"model": tiny.model_config(mtp=MtpConfig())}):
        config = tiny.replaced(tiny.train_config(dataset.path), **changes)
        result, gradients = one_step(config, batch_of(config), torch.float32)
        assert result.plan.draft_targets == ()
        assert not [name for name in gradients if name.startswith("mtp.")]
        assert result.terms["mtp"].item() == 0


# Precision


def test_bfloat16_steps_keep_float32_masters(dataset: TokenDataset):
    """A continued run has the same bits although its bfloat16 weights come back from float32 masters."""
    config = tiny.train_config(dataset.path, precision="bfloat16")
    straight = Workbench(config)
    steps(straight, 2)
    saved = {name: tensor.clone() for name, tensor in straight.stepper.wanted().items()}
    continued = Workbench(config)
    for name, tensor in continued.stepper.wanted().items():
        tensor.copy_(saved[name])
    continued.stepper.loaded()
    assert bits(steps(straight, 5, 3)) == bits(steps(continued, 5, 3))
    assert changed(state(straight), state(continued)) == []
    assert any(name.endswith("/master") for name in saved)
