"""Tiny checkpoints in every published naming scheme, written with plain `safetensors` and names spelled out here.

Nothing in this file uses `homegrown.hub`: names and shapes are from the releases' index files and loaders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

V, H, L, HEADS, RQ, RC, DN, DR, DV, FFN, EFFN, E, Z = 64, 48, 2, 2, 16, 12, 8, 8, 6, 40, 24, 4, 2
T, SPLITS, ORDER = 4, 2, 3
ROWS = [160 + 2 * t + 1 for t in range(T)]
INDEX_HEADS, INDEX_DIM = 2, 8

BASE: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": H,
    "num_layers": L,
    "num_attention_heads": HEADS,
    "q_lora_rank": RQ,
    "kv_lora_rank": RC,
    "qk_nope_head_dim": DN,
    "qk_rope_head_dim": DR,
    "v_head_dim": DV,
    "ffn_hidden_size": FFN,
    "expert_ffn_hidden_size": EFFN,
    "n_routed_experts": E,
    "zero_expert_num": Z,
    "moe_topk": 3,
    "routed_scaling_factor": 6.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 1e4,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1, "mscale": 1}
SPARSE = {
    "index_topk": 8,
    "index_n_heads": INDEX_HEADS,
    "index_head_dim": INDEX_DIM,
    "index_init_tokens": 1,
    "index_local_tokens": 3,
    "index_k_norm_type": "rms",
    "cli_factor": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "flash": BASE
    | {
        "architectures": ["LongcatFlashForCausalLM"],
        "model_type": "longcat_flash",
        "num_nextn_predict_layers": 1,
        "nextn_use_scmoe": False,
    },
    "lite": BASE
    | {
        "architectures": ["LongcatFlashNgramForCausalLM"],
        "model_type": "longcat_flash_ngram",
        "ngram_vocab_size_ratio": 2.5,
        "emb_neighbor_num": ORDER,
        "emb_split_num": SPLITS,
        "mtp_num_layers": 1,
        "rope_scaling": YARN | {"type": "yarn", "mscale_all_dim": 1},
    },
    "longcat": BASE
    | SPARSE
    | {
        "architectures": ["LongcatCausalLM"],
        "attention_method": "MLA",
        "oe_vocab_size_ratio": 2.5,
        "oe_neighbor_num": ORDER,
        "oe_split_num": SPLITS,
        "mtp_num_layers": 3,
        "mtp_replicate_modules": True,
        "mtp_disable_over_tokenizer": True,
        "rope_scaling": YARN | {"type": "deepseek_yarn", "mscale_all_dim": 1},
    },
}


def weights(scheme: str, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """All tensors of the tiny model of a scheme, random; the router in float32, as published."""
    gen = torch.Generator().manual_seed(seed)

    def rand(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return (torch.randn(shape, generator=gen) * 0.1).to(dtype)

    def mla(prefix: str) -> dict[str, Tensor]:
        return {
            f"{prefix}.q_a_proj.weight": rand(RQ, H),
            f"{prefix}.q_a_layernorm.weight": rand(RQ) + 1,
            f"{prefix}.q_b_proj.weight": rand(HEADS * (DN + DR), RQ),
            f"{prefix}.kv_a_proj_with_mqa.weight": rand(RC + DR, H),
            f"{prefix}.kv_a_layernorm.weight": rand(RC) + 1,
            f"{prefix}.kv_b_proj.weight": rand(HEADS * (DN + DV), RC),
            f"{prefix}.o_proj.weight": rand(H, HEADS * DV),
        }

    def indexer(prefix: str) -> dict[str, Tensor]:
        return {
            f"{prefix}.indexer.wq_b.weight": rand(INDEX_HEADS * INDEX_DIM, RQ),
            f"{prefix}.indexer.wk.weight": rand(INDEX_DIM, H),
            f"{prefix}.indexer.k_norm.weight": rand(INDEX_DIM) + 1,
            f"{prefix}.indexer.weights_proj.weight": rand(INDEX_HEADS, H, dtype=torch.float32),
        }

    def ffn(prefix: str, width: int) -> dict[str, Tensor]:
        return {
            f"{prefix}.gate_proj.weight": rand(width, H),
            f"{prefix}.up_proj.weight": rand(width, H),
            f"{prefix}.down_proj.weight": rand(H, width),
        }

    sparse = scheme == "longcat"
    out = {
        "model.embed_tokens.weight": rand(V, H),
        "model.norm.weight": rand(H) + 1,
        "lm_head.weight": rand(V, H),
    }
    for layer in range(L):
        at = f"model.layers.{layer}"
        for i in (0, 1):
            out[f"{at}.input_layernorm.{i}.weight"] = rand(H) + 1
            out[f"{at}.post_attention_layernorm.{i}.weight"] = rand(H) + 1
            out |= mla(f"{at}.self_attn.{i}") | ffn(f"{at}.mlps.{i}", FFN)
        if sparse:
            out |= indexer(f"{at}.self_attn.0")
        out[f"{at}.mlp.router.classifier.weight"] = rand(E + Z, H, dtype=torch.float32)
        out[f"{at}.mlp.router.e_score_correction_bias"] = rand(E + Z, dtype=torch.float32)
        for expert in range(E):
            out |= ffn(f"{at}.mlp.experts.{expert}", EFFN)
    for t in range(T if scheme != "flash" else 0):
        nested = scheme == "lite"
        table = f"ngram_embeddings.embedders.{t}" if nested else f"oe_embed_tokens{t}"
        proj = f"ngram_embeddings.post_projs.{t}" if nested else f"oe_embed_proj{t}"
        out[f"model.{table}.weight"] = rand(ROWS[t], H // T)
        out[f"model.{proj}.weight"] = rand(H, H // T)
    at = "model.mtp.layers.0"
    out[f"{at}.eh_proj.weight"] = rand(H, 2 * H)
    for norm in ("enorm.m", "hnorm.m", "input_layernorm", "post_attention_layernorm"):
        out[f"{at}.{norm}.weight"] = rand(H) + 1
    out |= mla(f"{at}.self_attn") | (indexer(f"{at}.self_attn") if sparse else {})
    out |= ffn(f"{at}.transformer_layer.mlp", FFN)
    out["model.mtp.norm.weight"] = rand(H) + 1
    return out


def draft_extras(scheme: str) -> dict[str, Tensor]:
    """The draft head's tensors that no forward pass reads, as in LongCat-2.0 and Flash-Lite-Sparse."""
    out = {"model.mtp.embed_tokens.weight": torch.randn(V, H).bfloat16()}
    for t in range(T if scheme == "longcat" else 0):
        out[f"model.mtp.oe_embed_tokens{t}.weight"] = torch.randn(ROWS[t], H // T).bfloat16()
        out[f"model.mtp.oe_embed_proj{t}.weight"] = torch.randn(H, H // T).bfloat16()
    return out


def in_model(published: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """For each published name, what a loaded model holds for it, found by hand."""
    out: dict[str, Tensor] = {}
    starts = [sum(ROWS[:t]) for t in range(T)]
    for name in published:
        ours = name.removeprefix("model.").replace("enorm.m.", "enorm.").replace("hnorm.m.", "hnorm.")
        ours = ours.replace("transformer_layer.mlp", "mlp")
        words = ours.split(".")
        if ".mlp.experts." in ours:
            stem, expert, which = ".".join(words[:4]), int(words[4]), words[5]
            if which == "down_proj":
                out[name] = state[f"{stem}.down_proj"][expert]
            else:
                out[name] = state[f"{stem}.gate_up_proj"][expert, 0 if which == "gate_proj" else 1]
        elif words[0].startswith("oe_embed_tokens") or "embedders" in words:
            t = int("".join(c for c in ours if c.isdigit()))
            out[name] = state["ngram_embeddings.table"][starts[t] : starts[t] + ROWS[t]]
        elif words[0].startswith("oe_embed_proj") or "post_projs" in words:
            out[name] = state["ngram_embeddings.proj"][int("".join(c for c in ours if c.isdigit()))]
        else:
            out[name] = state[ours]
    return out


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], shards: int = 1) -> Path:
    """A Hugging Face directory; with several shards the tensors are dealt out in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    place = {name: names[i % shards] for i, name in enumerate(tensors)}
    for file in names:
        save_file({name: tensors[name] for name in tensors if place[name] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def tiny(folder: Path, scheme: str, shards: int = 1) -> Path:
    """The tiny model of a scheme as a directory."""
    return write(folder, CONFIGS[scheme], weights(scheme), shards)


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors of a directory, read with plain `safetensors`."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same_bytes(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Same names, dtypes, shapes and bytes."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8))
        for name in left
    )
