"""The peer: `transformers`' LongCat-Flash with the same weights."""

from __future__ import annotations

from importlib import util

import torch
from torch import Tensor, nn

from homegrown.config import ConfigError, ModelConfig, UserError
from homegrown.model import Longcat

PEER = "transformers"


def refuse_missing_peer() -> None:
    """Raise `UserError` unless the peer is installed."""
    if util.find_spec(PEER) is None:
        raise UserError(
            f"the peer needs the package {PEER!r}: install it (`pip install 'homegrown-lm[dev]'`) or measure without "
            "it (`--no-peer`)"
        )


def build_peer(model: Longcat) -> nn.Module:
    """`LongcatFlashForCausalLM` of the shape of `model`, in float32 on its device, holding a copy of its weights.

    Raises:
        ConfigError: the peer does not compute this architecture; the message names the keys.
    """
    config = model.config
    _refuse_other_functions(config)
    import transformers

    settings = transformers.LongcatFlashConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        q_lora_rank=config.q_lora_rank,
        kv_lora_rank=config.kv_lora_rank,
        qk_nope_head_dim=config.qk_nope_head_dim,
        qk_rope_head_dim=config.qk_rope_head_dim,
        head_dim=config.qk_rope_head_dim,
        v_head_dim=config.v_head_dim,
        ffn_hidden_size=config.ffn_hidden_size,
        expert_ffn_hidden_size=config.expert_ffn_hidden_size,
        n_routed_experts=config.n_routed_experts,
        zero_expert_num=config.zero_expert_num,
        moe_topk=config.moe_topk,
        routed_scaling_factor=config.routed_scaling_factor,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
        use_cache=False,
    )
    peer: nn.Module = transformers.LongcatFlashForCausalLM(settings)
    peer.to(model.norm.weight.device)
    peer.load_state_dict(peer_weights(model))
    return peer.train()


def peer_weights(model: Longcat) -> dict[str, Tensor]:
    """The weights of `model` under the peer's names and shapes, in float32.

    It stacks gate over up into [E + Z, 2F, H], with unused rows for the zero experts.
    """
    weights = {}
    for name, tensor in model.state_dict().items():
        held = tensor.to(torch.float32)
        if name.endswith(".experts.gate_up_proj"):
            zeros = held.new_zeros(model.config.zero_expert_num, *held.shape[1:])
            held = torch.cat((held, zeros)).flatten(1, 2)
        weights[name if name.startswith("lm_head.") else f"model.{name}"] = held
    return weights


def _refuse_other_functions(config: ModelConfig) -> None:
    differences = {
        "ngram.order": config.ngram.order != 0,
        "sparse.topk": config.sparse.topk != 0,
        "mtp.layers": config.mtp.layers != 0,
        "rope.type": config.rope.type != "none",
        "latent_norm_eps": config.latent_norm_eps != 1e-6,
        "zero_expert_type": config.zero_expert_type != "identity",
        "scale_zero_experts": not config.scale_zero_experts,
        "router_bias": config.router_bias,
        "norm_topk_prob": config.norm_topk_prob,
        "mla_scale_q_lora": not config.mla_scale_q_lora,
        "mla_scale_kv_lora": not config.mla_scale_kv_lora,
    }
    wrong = [key for key, differs in differences.items() if differs]
    if wrong:
        raise ConfigError(
            f"{PEER}' LongCat-Flash computes another function than this model: {', '.join(wrong)} must be as in "
            "LongCat-Flash (latent_norm_eps 1e-6)"
        )
