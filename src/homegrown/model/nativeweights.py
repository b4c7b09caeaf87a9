"""What C is told of a model: its sizes, constants, and where its weights are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from homegrown.model.attention import LatentAttention
from homegrown.model.context import owner_slots
from homegrown.model.int8 import Int8Experts, Int8Linear, Int8Weight
from homegrown.model.layers import DenseFFN, Head, LayerNorm, Linear, RMSNorm
from homegrown.model.longcat import Longcat
from homegrown.model.rope import attention_factor, inverse_frequencies
from homegrown.model.router import Experts, LocalDispatcher, MixtureOfExperts
from homegrown.ops.native.structures import BRAIN, BYTE, SINGLE, DraftOf, LayerOf, Matrix, ModelOf, Sublayer

KINDS = {torch.float32: SINGLE, torch.bfloat16: BRAIN}
PLAIN = (Linear, Head, Int8Linear, Int8Weight)


def understood(model: Longcat) -> str:
    """Why a model's weights cannot be read natively; empty if they can."""
    config = model.config
    if [int(name) for name in model.layers] != list(range(config.num_layers)) or model.lm_head is None:
        return "the model is a part of one"
    for name, module in model.named_modules():
        if isinstance(module, MixtureOfExperts) and type(module.dispatcher) is not LocalDispatcher:
            return f"{name}'s experts are spread over processes"
        if name.endswith(("_proj", "classifier", "lm_head", ".wk", "wq_b")) and type(module) not in PLAIN:
            return f"{name} is a {type(module).__name__}"
        if name.endswith("mlp.experts") and type(module) not in (Experts, Int8Experts):
            return f"{name} is a {type(module).__name__}"
    for name, tensor in model.named_parameters():
        if tensor.dtype not in KINDS or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return f"{name} is {tensor.dtype} on {tensor.device}, or not contiguous"
    return ""


class Weights:
    """The tensors of a model that are read, and whether they are still the model's."""

    def __init__(self, model: nn.Module) -> None:
        self._places: list[tuple[dict[str, Any], str, int]] = []
        self._modules = [
            (module._modules, name, child) for module in model.modules() for name, child in _children(module)
        ]
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                self._places += [(held, name, item.data_ptr()) for name, item in held.items() if item is not None]
        self._kept: list[Tensor] = []

    @property
    def current(self) -> bool:
        """Whether no tensor or module has been replaced or moved."""
        for held, name, at in self._places:
            if held[name].data_ptr() != at:
                return False
        return all(held.get(name) is child for held, name, child in self._modules)

    def matrix(self, weight: Tensor | Int8Weight | None) -> Matrix:
        """Where a weight is."""
        if weight is None:
            return Matrix()
        if isinstance(weight, Int8Weight):
            scale = weight.scale.to(torch.float32).flatten().contiguous()
            self._kept.append(scale)
            return Matrix(weight.values.data_ptr(), scale.data_ptr(), BYTE)
        self._kept.append(weight.detach())
        return Matrix(weight.data_ptr(), None, KINDS[weight.dtype])

    def keep(self, tensor: Tensor) -> int:
        """The address of a tensor that is kept as long as this."""
        self._kept.append(tensor)
        return tensor.data_ptr()


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module._modules.items() if child is not None]


def describe(model: Longcat, weights: Weights) -> tuple[ModelOf, list[Any]]:
    """The structure of a model, and what it points to."""
    config, sparse, matrix = model.config, model.config.sparse, weights.matrix
    layers = (LayerOf * config.num_layers)(*(_layer(layer, weights) for layer in model.layers.values()))
    drafts = (DraftOf * 1)()
    if model.mtp is not None:
        block: Any = model.mtp.layers[0]
        drafts[0] = DraftOf(
            block=_sublayer(block.self_attn, block.mlp, block.input_layernorm, block.post_attention_layernorm, weights),
            join=matrix(block.eh_proj.weight),
            word_norm=matrix(block.enorm.weight),
            state_norm=matrix(block.hnorm.weight),
            norm=matrix(model.mtp.norm.weight),
        )
    first: Any = next(iter(model.layers.values()))
    attention: LatentAttention = first.self_attn[0]
    rope = config.rope
    index_scale = sparse.heads**-0.5 * sparse.head_dim**-0.5 if sparse.topk and sparse.scale_scores else 1.0
    owned = bool(owner_slots(config))
    made = ModelOf(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        q_width=config.q_lora_rank,
        latent=config.kv_lora_rank,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        value=config.v_head_dim,
        dense=config.ffn_hidden_size,
        experts=config.n_routed_experts,
        zero=config.zero_expert_num,
        chosen=config.moe_topk,
        width=config.expert_ffn_hidden_size,
        identity=config.zero_expert_num > 0 and config.zero_expert_type == "identity",
        normalise=config.norm_topk_prob,
        scale_zero=config.scale_zero_experts,
        index_heads=sparse.heads if owned else 0,
        index_width=sparse.head_dim if owned else 0,
        index_pairs=sparse.rope_interleaved,
        budget=sparse.topk if owned else 0,
        sinks=sparse.init_tokens,
        window=sparse.local_tokens,
        count=config.num_layers,
        vocabulary=config.vocab_size,
        key_kind=KINDS[model.dtype],
        rotary_factor=attention_factor(rope, rope.mscale) / attention_factor(rope, rope.mscale_all_dim),
        frequencies=weights.keep(inverse_frequencies(rope, config.qk_rope_head_dim).contiguous()),
        eps=config.rms_norm_eps,
        latent_eps=config.latent_norm_eps,
        index_eps=sparse.k_norm_eps,
        gamma=config.routed_scaling_factor,
        index_scale=index_scale,
        scale=attention.scale,
        key_scale=attention.key_scale,
        layers=layers,
        drafts=drafts,
        norm=matrix(model.norm.weight),
        head=matrix(model.lm_head.weight),
    )
    return made, [layers, drafts]


def _layer(layer: Any, weights: Weights) -> LayerOf:
    matrix, router = weights.matrix, layer.mlp.router
    pairs = zip(layer.self_attn, layer.mlps, layer.input_layernorm, layer.post_attention_layernorm, strict=True)
    return LayerOf(
        sublayers=(Sublayer * 2)(*(_sublayer(*parts, weights) for parts in pairs)),
        router=matrix(router.classifier.weight),
        expert_in=matrix(layer.mlp.experts.gate_up_proj),
        expert_out=matrix(layer.mlp.experts.down_proj),
        router_bias=matrix(router.classifier.bias),
        correction=matrix(router.e_score_correction_bias),
    )


def _sublayer(
    attention: LatentAttention, dense: DenseFFN, before: RMSNorm, after: RMSNorm, weights: Weights
) -> Sublayer:
    matrix, indexer = weights.matrix, attention.indexer
    made = Sublayer(
        q_a=matrix(attention.q_a_proj.weight),
        q_b=matrix(attention.q_b_proj.weight),
        kv_a=matrix(attention.kv_a_proj_with_mqa.weight),
        kv_b=matrix(attention.kv_b_proj.weight),
        out=matrix(attention.o_proj.weight),
        gate=matrix(dense.gate_proj.weight),
        up=matrix(dense.up_proj.weight),
        down=matrix(dense.down_proj.weight),
        before=matrix(before.weight),
        q_norm=matrix(attention.q_a_layernorm.weight),
        kv_norm=matrix(attention.kv_a_layernorm.weight),
        after=matrix(after.weight),
        slot=attention.slot,
    )
    if indexer is not None:
        made.index_q, made.index_k = matrix(indexer.wq_b.weight), matrix(indexer.wk.weight)
        made.index_w, made.index_norm = matrix(indexer.weights_proj.weight), matrix(indexer.k_norm.weight)
        made.index_bias = matrix(indexer.k_norm.bias if isinstance(indexer.k_norm, LayerNorm) else None)
    return made
