"""Tiny models with given weights: ours, and `transformers`' LongCat-Flash, which other people wrote."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LongcatFlashConfig, LongcatFlashForCausalLM

from homegrown.config import ModelConfig, RopeConfig
from homegrown.model import Longcat
from tests.reference import Weights

YARN = RopeConfig(theta=1e4, type="yarn", factor=8.0, original_max_position=64, beta_fast=32.0, beta_slow=1.0)

SAME_NAME = (
    *("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "q_lora_rank", "kv_lora_rank"),
    *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "ffn_hidden_size", "expert_ffn_hidden_size"),
    *("n_routed_experts", "zero_expert_num", "moe_topk", "routed_scaling_factor", "rms_norm_eps"),
    "max_position_embeddings",
)


def tiny(**changes: Any) -> ModelConfig:
    """A tiny LongCat-Flash: no n-grams, dense attention, the latent norms' ε of `transformers`."""
    base: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_layers": 2,
        "num_attention_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 20,
        "n_routed_experts": 6,
        "zero_expert_num": 3,
        "moe_topk": 4,
        "max_position_embeddings": 512,
        "latent_norm_eps": 1e-6,
    }
    return ModelConfig(**(base | changes))


def built(config: ModelConfig, weights: Weights, dtype: torch.dtype = torch.float64) -> Longcat:
    """Our model with these weights, every one of them loaded by name."""
    model = Longcat(config).to(dtype)
    model.load_state_dict(weights)
    return model


def twin(config: ModelConfig, weights: Weights, dtype: torch.dtype = torch.float32) -> LongcatFlashForCausalLM:
    """`transformers`' model with the same weights."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope.theta}
    if config.rope.type == "yarn":
        rope |= {
            "rope_type": "yarn",
            "factor": config.rope.factor,
            "original_max_position_embeddings": config.rope.original_max_position,
            "beta_fast": config.rope.beta_fast,
            "beta_slow": config.rope.beta_slow,
            "mscale": config.rope.mscale,
            "mscale_all_dim": config.rope.mscale_all_dim,
        }
    theirs = LongcatFlashConfig(
        **{name: getattr(config, name) for name in SAME_NAME},
        head_dim=config.qk_rope_head_dim,
        rope_parameters=rope,
        attn_implementation="eager",
    )
    model = LongcatFlashForCausalLM(theirs)
    model.load_state_dict(to_theirs(config, weights))
    return model.to(dtype).eval()


def to_theirs(config: ModelConfig, weights: Weights) -> Weights:
    """Our names and layouts in theirs: fused gate and up, with unused rows for the zero experts."""
    theirs = {}
    for name, value in weights.items():
        if name.endswith("experts.gate_up_proj"):
            fused = value.flatten(1, 2)
            value = torch.cat([fused, torch.zeros(config.zero_expert_num, *fused.shape[1:], dtype=fused.dtype)])
        theirs[name if name.startswith("lm_head") else f"model.{name}"] = value
    return theirs


def gradients_of(config: ModelConfig, model: LongcatFlashForCausalLM) -> dict[str, Tensor]:
    """Their gradients under our names and in our layouts."""
    ours = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None, f"transformers gave {name} no gradient"
        if name.endswith("experts.gate_up_proj"):
            E, F = config.n_routed_experts, config.expert_ffn_hidden_size
            grad = grad[:E].unflatten(1, (2, F))
        ours[name.removeprefix("model.")] = grad
    return ours
