from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from homegrown.config import ConfigError, OptimConfig
from homegrown.model import Longcat
from homegrown.optim.norm import norm as norm_of
from homegrown.optim.norm import piece_norms
from homegrown.optim.slots import WeightSlot
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.zero import ShardedOptimizer, build_optimizer

OPTIM = OptimConfig(weight_decay=0.1)


@pytest.fixture
def make(config):
    """A function that makes a model, its router in float32 and the rest in `dtype`, and its optimizer."""

    def model_and_optimizer(dtype=torch.float32, seed=0, **options) -> tuple[Longcat, ShardedOptimizer]:
        model = Longcat(config)
        model.init_weights(seed)
        for name, parameter in model.named_parameters():
            if "router" not in name:
                parameter.data = parameter.data.to(dtype)
        return model, build_optimizer(model, OPTIM, config, bf16_fast=False, **options)

    return model_and_optimizer


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {
        name: tensor.detach().reshape(-1).view(torch.int32 if tensor.dtype == torch.float32 else torch.int16).tolist()
        for name, tensor in tensors.items()
    }


def everything(model: nn.Module, optimizer: ShardedOptimizer) -> dict[str, list[int]]:
    return bits({**dict(model.named_parameters()), **optimizer.state()})


def test_table_reports_what_each_group_got(make):
    _, optimizer = make(torch.bfloat16, row_lazy=["n-gram tables"])
    rows = {row["group"]: row for row in optimizer.table()}
    assert rows["experts"] == {
        "group": "experts", "optimizer": "Muon, 5 steps in float32", "tensors": 4, "parameters": 9216,
        "lr": OPTIM.muon_lr, "weight_decay": 0.1, "dtype": "bfloat16",
    }  # fmt: skip
    assert rows["router"]["optimizer"] == "AdamW, fused" and rows["router"]["dtype"] == "float32"
    assert rows["n-gram tables"]["optimizer"] == "AdamW, row-lazy" and rows["n-gram tables"]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("setting", "fast", "dtype"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ],
)
def test_precision_of_newton_schulz(model, config, setting, fast, dtype):
    row = build_optimizer(model, OptimConfig(muon_dtype=setting), config, fast).table()[0]
    assert row["optimizer"].endswith(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_lowers_the_loss_of_the_real_model(dtype, make):
    torch.manual_seed(0)
    model, optimizer = make(dtype)
    tokens = torch.randint(4, 96, (4, 24))

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1).float(), tokens[:, 1:].flatten())

    before = loss().item()
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step(1.0, grad_scale=(1.0 / optimizer.grad_norm()).clamp(max=1.0), keep=torch.ones(()))
    assert loss().item() < before - 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keep_zero_changes_no_bit_of_weights_masters_or_state(dtype, backward, make):
    model, optimizer = make(dtype)
    backward(model, 1)
    optimizer.step(1.0)
    before = everything(model, optimizer)
    backward(model, 2)
    for parameter in model.parameters():
        parameter.grad.view(-1)[0] = float("nan")
    optimizer.step(1.0, grad_scale=torch.tensor(float("nan")), keep=torch.zeros(()))
    assert everything(model, optimizer) == before


def test_keep_one_is_the_same_as_none(backward, make):
    (a, first), (b, second) = make(), make()
    for seed in range(2):
        backward(a, seed)
        backward(b, seed)
        first.step(0.5)
        second.step(0.5, keep=torch.ones(()))
    assert everything(a, first) == everything(b, second)


def test_a_step_never_reads_a_value_on_the_host(backward, config):
    # Tensors on the meta device have no values: reading one (`.item()`, a branch on it, `nonzero`) raises.
    with torch.device("meta"):
        model = Longcat(config).bfloat16()
        scalar = torch.zeros(())
        for row_lazy in ([], ["n-gram tables", "embedding"]):
            optimizer = build_optimizer(model, OPTIM, config, bf16_fast=True, row_lazy=row_lazy)
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            optimizer.step(1.0, grad_scale=scalar / optimizer.grad_norm(), keep=scalar)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_round_trip_continues_bit_for_bit(dtype, backward, make):
    model, optimizer = make(dtype)
    for seed in range(3):
        backward(model, seed)
        optimizer.step(1.0)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    other, resumed = make(dtype, seed=5)
    other.load_state_dict(weights)
    resumed.load(state)
    for seed in range(3, 5):
        for each, stepper in ((model, optimizer), (other, resumed)):
            backward(each, seed)
            stepper.step(0.7)
    assert everything(model, optimizer) == everything(other, resumed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_is_keyed_by_piece_and_holds_all_masters(dtype, make):
    model, optimizer = make(dtype)
    state = optimizer.state()
    assert "layers.0.mlp.experts.gate_up_proj@3:4/momentum" in state
    assert state["layers.0.mlp.experts.gate_up_proj@3:4/master"].dtype == torch.float32
    assert {"lm_head.weight@0:96/exp_avg", "lm_head.weight@0:96/exp_avg_sq", "lm_head.weight@0:96/step"} <= set(state)
    masters = {key: tensor for key, tensor in state.items() if key.endswith("/master")}
    assert sum(tensor.numel() for tensor in masters.values()) == sum(weight.numel() for weight in model.parameters())
    for key, tensor in masters.items():
        name, _, rows = key.removesuffix("/master").partition("@")
        start, stop = map(int, rows.split(":"))
        assert torch.equal(tensor.to(dtype), model.get_parameter(name)[start:stop].to(dtype)), key


def test_loading_masters_rounds_them_into_the_weights(make):
    model, optimizer = make(torch.bfloat16)
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    state["lm_head.weight@0:96/master"].fill_(0.1)
    optimizer.load(state)
    assert torch.equal(model.lm_head.weight, torch.full_like(model.lm_head.weight, 0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("lm_head.weight@0:96/step"), r"'lm_head.weight@0:96/step' is missing$"),
        (lambda state: state.update(extra=torch.zeros(1)), r"'extra' is not part of it$"),
        (
            lambda state: state.update({"norm.weight@0:24/exp_avg": torch.zeros(3)}),
            r"'norm.weight@0:24/exp_avg' is float32 \[3\], not float32 \[24\]$",
        ),
        (
            lambda state: state.update({"norm.weight@0:24/exp_avg": torch.zeros(24, dtype=torch.float64)}),
            r"is float64 \[24\], not float32 \[24\]$",
        ),
        (lambda state: state.clear(), r"is missing \(and \d+ more such faults\)$"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_nothing_changes(change, message, backward, make):
    model, optimizer = make()
    backward(model, 0)
    optimizer.step(1.0)
    before = everything(model, optimizer)
    state = {name: tensor.clone().fill_(3.0) for name, tensor in optimizer.state().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load(state)
    assert everything(model, optimizer) == before


def test_grad_norm_is_the_euclidean_norm(backward, make):
    model, optimizer = make()
    assert optimizer.grad_norm().item() == 0.0
    backward(model, 3)
    exact = math.sqrt(sum(parameter.grad.double().square().sum().item() for parameter in model.parameters()))
    norm = optimizer.grad_norm()
    assert norm.dtype == torch.float32 and norm.shape == ()
    assert norm.item() == pytest.approx(exact, rel=1e-6)


def test_a_norm_does_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator) for size in (3, 4096, 50_001, 3_000_000)]
    exact = math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))
    threads = torch.get_num_threads()
    norms = set()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        norms.add(norm_of(torch.stack([norm_of(tensor) for tensor in tensors])).item())
    torch.set_num_threads(threads)
    assert len(norms) == 1
    assert norms.pop() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_pieces_do_not_depend_on_their_company(dtype):
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(90, 131, generator=generator).to(dtype)
    borders = (0, 1, 40, 41, 90)
    together = WeightSlot("w", nn.Parameter(torch.zeros_like(gradient)), borders)
    together.gradient = gradient
    rows = torch.arange(0, 90, 3)
    lazy = WeightSlot("w", nn.Parameter(torch.zeros_like(gradient)), borders)
    lazy.gradient = torch.sparse_coo_tensor(rows[None], gradient[rows], gradient.shape, check_invariants=True)
    for index, (start, stop) in enumerate(itertools.pairwise(borders)):
        alone = WeightSlot("w", nn.Parameter(torch.zeros_like(gradient[start:stop])), (start, stop))
        alone.gradient = gradient[start:stop].clone()
        assert torch.equal(piece_norms(alone)[0], piece_norms(together)[index])
        exact = gradient[start:stop].double().norm().item()
        assert piece_norms(together)[index].item() == pytest.approx(exact, rel=1e-6)
        here = rows[(rows >= start) & (rows < stop)]
        alone.gradient = torch.sparse_coo_tensor(
            here[None] - start, gradient[here], (stop - start, 131), check_invariants=True
        )
        assert torch.equal(piece_norms(alone)[0], piece_norms(lazy)[index])
        assert piece_norms(lazy)[index].item() == pytest.approx(gradient[here].double().norm().item(), rel=1e-6)


def test_sparse_gradients_of_a_row_lazy_table_train_the_real_model(make):
    model, optimizer = make(row_lazy=["n-gram tables"])
    dense, plain = make(row_lazy=["n-gram tables"])
    model.ngram_embeddings.lookup = lambda table, ids: nn.functional.embedding(ids, table, sparse=True)
    tokens = torch.randint(4, 96, (2, 12), generator=torch.Generator().manual_seed(0))
    for each, stepper in ((model, optimizer), (dense, plain)):
        each(tokens).float().logsumexp(-1).sum().backward()
        norm = stepper.grad_norm()
        stepper.step(1.0, grad_scale=1.0 / norm)
    assert model.ngram_embeddings.table.grad.is_sparse
    # The two sum duplicate rows in different orders, and Adam's first update is a sign: equal but where it is noise
    difference = (model.ngram_embeddings.table - dense.ngram_embeddings.table).abs()
    assert (difference > 1e-6).float().mean() < 1e-3
    untouched = dense.ngram_embeddings.table.grad.eq(0).all(dim=1)
    fresh, _ = make()
    assert torch.equal(model.ngram_embeddings.table[untouched], fresh.ngram_embeddings.table[untouched])


def test_zero_grad_drops_the_gradients(backward, make):
    model, optimizer = make()
    backward(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_are_shown_and_left_alone(backward, config):
    model = Longcat(config)
    model.init_weights(0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("indexer" in name)
    optimizer = build_optimizer(model, OPTIM, config, bf16_fast=False)
    before = bits({"embed": model.embed_tokens.weight})
    backward(model, 0)
    optimizer.step(1.0)
    assert bits({"embed": model.embed_tokens.weight}) == before
    assert [row["group"] for row in optimizer.table()] == ["indexer", "norms", "biases", "frozen"]
    assert optimizer.table()[-1]["optimizer"] == "none"
    state = optimizer.state()
    assert all("indexer" in key for key in state if not key.endswith("/master"))
    assert "embed_tokens.weight@0:96/master" in state


def test_unknown_parameter_is_refused(model, config):
    model.surprise = nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigError, match=r"parameter 'surprise' of shape \[3\]: the model has none of this name"):
        build_optimizer(model, OPTIM, config, bf16_fast=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"muon_lr": -1.0}, r"optim.muon_lr = -1.0: must not be negative"),
        ({"adam_lr": float("nan")}, r"optim.adam_lr = nan"),
        ({"adam_beta2": 1.0}, r"optim.adam_beta2 = 1.0: must lie between 0 and 1"),
        ({"adam_eps": 0.0}, r"optim.adam_eps = 0.0: must be positive"),
        ({"muon_steps": 0}, r"optim.muon_steps = 0: must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(model, config, changes, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(model, OptimConfig(**changes), config, bf16_fast=False)


def test_row_lazy_takes_groups_of_rows_only(model, config):
    with pytest.raises(ConfigError, match=r"row_lazy: 'head' is not a group of rows; those are: embedding, n-gram"):
        build_optimizer(model, OPTIM, config, bf16_fast=False, row_lazy=["head"])


def test_offload_on_the_cpu_is_refused(model, config):
    groups = Groups(Layout(part_layers=(config.num_layers,)), 0, 1.0)
    with pytest.raises(ConfigError, match=r"a run on the CPU has its state in host memory anyway; turn it off"):
        ShardedOptimizer(dict(model.named_parameters()), groups, OPTIM, config, False, offload=True)
