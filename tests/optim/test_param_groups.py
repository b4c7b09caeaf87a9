from __future__ import annotations

import pytest
import torch

from homegrown.config import ConfigError, ModelConfig, OptimConfig, load_preset, preset_names
from homegrown.model import Longcat
from homegrown.optim import group_of
from homegrown.optim.groups import _COMPILED
from homegrown.parallel.zero import build_optimizer

OPTIM = OptimConfig(
    muon_lr=0.01, adam_lr=0.02, embed_lr=0.03, ngram_lr=0.04, head_lr=0.05, indexer_lr=0.06, weight_decay=0.1
)
MODEL = ModelConfig(hidden_size=1024)


@pytest.mark.parametrize(
    ("name", "shape", "group", "optimizer", "lr", "decay"),
    [
        ("layers.3.self_attn.1.q_a_proj.weight", (4, 8), "hidden matrices", "muon", 0.01, 0.1),
        ("layers.3.self_attn.1.kv_a_proj_with_mqa.weight", (4, 8), "hidden matrices", "muon", 0.01, 0.1),
        ("layers.0.mlps.0.down_proj.weight", (8, 4), "hidden matrices", "muon", 0.01, 0.1),
        ("mtp.layers.0.eh_proj.weight", (8, 16), "hidden matrices", "muon", 0.01, 0.1),
        ("mtp.layers.0.self_attn.o_proj.weight", (8, 8), "hidden matrices", "muon", 0.01, 0.1),
        ("layers.0.mlp.experts.gate_up_proj", (2, 2, 4, 8), "experts", "muon", 0.01, 0.1),
        ("layers.0.mlp.experts.down_proj", (2, 8, 4), "experts", "muon", 0.01, 0.1),
        ("ngram_embeddings.proj", (2, 8, 4), "n-gram projections", "muon", 0.01, 0.1),
        ("layers.0.mlp.router.classifier.weight", (6, 8), "router", "adamw", 0.02, 0.1),
        ("layers.0.self_attn.0.indexer.wk.weight", (4, 8), "indexer", "adamw", 0.06, 0.1),
        ("layers.0.self_attn.0.indexer.k_norm.weight", (4,), "norms", "adamw", 0.02, 0.0),
        ("layers.0.self_attn.0.indexer.k_norm.bias", (4,), "biases", "adamw", 0.02, 0.0),
        ("layers.0.mlp.router.classifier.bias", (6,), "biases", "adamw", 0.02, 0.0),
        ("embed_tokens.weight", (9, 8), "embedding", "adamw", 0.03, 0.0),
        ("ngram_embeddings.table", (99, 4), "n-gram tables", "adamw", 0.04, 0.0),
        ("lm_head.weight", (9, 8), "head", "adamw", 0.05, 0.1),
        ("norm.weight", (8,), "norms", "adamw", 0.02, 0.0),
    ],
)
def test_group_rate_and_decay(name, shape, group, optimizer, lr, decay):
    got = group_of(name, shape, OPTIM, MODEL)
    assert (got.name, got.optimizer, got.lr, got.weight_decay) == (group, optimizer, lr, decay)


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.self_attn.0.q_a_proj.bias",  # no linear map of attention has one
        "layers.0.self_attn.2.o_proj.weight",  # two sublayers a layer
        "xlayers.0.mlps.0.up_proj.weight",
        "norm.weight.extra",
        "embed_tokens",
    ],
)
def test_unknown_name_is_refused(name):
    with pytest.raises(ConfigError, match=r"no optimizer group is defined for this name"):
        group_of(name, (2, 2), OPTIM, MODEL)


def test_wrong_number_of_axes_is_refused():
    with pytest.raises(ConfigError, match=r"gate_up_proj' has shape \[2, 4, 8\]: one of 'experts' has 4 axes"):
        group_of("layers.0.mlp.experts.gate_up_proj", (2, 4, 8), OPTIM, MODEL)


def test_width_transfer_scales_matrices_under_adamw_only():
    optim = OptimConfig(
        adam_lr=1.0, embed_lr=1.0, ngram_lr=1.0, head_lr=1.0, indexer_lr=1.0, muon_lr=1.0, base_width=256
    )
    adamw = OptimConfig(adam_lr=1.0, base_width=256, hidden="adamw")

    def rate(name, axes, config=optim):
        return group_of(name, (2,) * axes, config, MODEL).lr

    assert rate("layers.0.mlps.0.up_proj.weight", 2, adamw) == 0.25
    assert rate("layers.0.mlp.experts.down_proj", 3, adamw) == 0.25
    assert rate("lm_head.weight", 2) == 0.25
    assert rate("layers.0.mlp.router.classifier.weight", 2) == 0.25
    assert rate("layers.0.self_attn.0.indexer.wq_b.weight", 2) == 0.25
    assert rate("layers.0.mlps.0.up_proj.weight", 2) == 1.0
    assert rate("embed_tokens.weight", 2) == 1.0
    assert rate("ngram_embeddings.table", 2) == 1.0
    assert rate("norm.weight", 1) == 1.0


@pytest.mark.parametrize("preset", preset_names())
def test_every_parameter_of_a_preset_has_exactly_one_group(preset):
    config = load_preset(preset)
    with torch.device("meta"):
        model = Longcat(config)
    for name, _ in model.named_parameters():
        assert sum(pattern.fullmatch(name) is not None for _, pattern, _ in _COMPILED) == 1, name
    rows = build_optimizer(model, OptimConfig(), config, bf16_fast=True).table()
    assert sum(row["tensors"] for row in rows) == len(list(model.parameters()))
    assert sum(row["parameters"] for row in rows) == sum(weight.numel() for weight in model.parameters())


def test_every_parameter_of_the_full_tiny_model_has_exactly_one_group(model, config):
    rows = build_optimizer(model, OptimConfig(), config, bf16_fast=False).table()
    assert sum(row["parameters"] for row in rows) == sum(weight.numel() for weight in model.parameters())
    assert [row["group"] for row in rows] == [
        "hidden matrices", "experts", "n-gram projections", "router", "indexer", "embedding", "n-gram tables", "head",
        "norms", "biases",
    ]  # fmt: skip
