from __future__ import annotations

import pytest
import torch

from homegrown.config import ModelConfig, MtpConfig, NgramConfig, SparseConfig
from homegrown.model import Longcat


def _tiny_config(**changes) -> ModelConfig:
    """Every feature of the family, as small as it gets."""
    fields = {
        "vocab_size": 96, "hidden_size": 24, "num_layers": 2, "num_attention_heads": 2, "q_lora_rank": 12,
        "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "ffn_hidden_size": 40,
        "expert_ffn_hidden_size": 16, "n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2,
        "max_position_embeddings": 64, "router_bias": True,
        "ngram": NgramConfig(order=3, splits=2, ratio=2.5),
        "sparse": SparseConfig(topk=8, heads=2, head_dim=8, init_tokens=1, local_tokens=4, k_norm="layer"),
        "mtp": MtpConfig(layers=1, steps=2),
    }  # fmt: skip
    return ModelConfig(**{**fields, **changes})


@pytest.fixture
def tiny_config():
    return _tiny_config


@pytest.fixture
def config() -> ModelConfig:
    return _tiny_config()


@pytest.fixture
def model(config) -> Longcat:
    model = Longcat(config)
    model.init_weights(0)
    return model


@pytest.fixture
def backward():
    """Give every parameter of a model a random gradient, a function of `seed`."""

    def fill(model: torch.nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)

    return fill
