"""A tokenizer and a model small enough to serve in a test, with every part of the architecture."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import homegrown
from homegrown.config import ModelConfig, MtpConfig, NgramConfig, SparseConfig
from homegrown.model import Longcat
from homegrown.tokenizer import Tokenizer
from homegrown.tokenizer.training import train_tokenizer

from ..generate.talker import talker

TEXT = "def f(x):\n    return x + 1\n\nprint(f(2))\nfor i in range(10):\n    print(i, 'é')\n"


@lru_cache
def tiny_tokenizer() -> Tokenizer:
    """About 300 tokens, the family's special tokens and chat template among them."""
    return train_tokenizer([TEXT] * 20, 304)


def tiny_config(**changes: Any) -> ModelConfig:
    """Two layers; queries that see more than 24 keys choose among them."""
    fields: dict[str, Any] = {
        "vocab_size": 304, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 2, "q_lora_rank": 16,
        "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16, "n_routed_experts": 6, "zero_expert_num": 3, "moe_topk": 3,
        "routed_scaling_factor": 2.0, "max_position_embeddings": 2048,
        "ngram": NgramConfig(order=3, splits=2, ratio=3.1),
        "sparse": SparseConfig(topk=24, heads=4, head_dim=8, init_tokens=1, local_tokens=8),
        "mtp": MtpConfig(layers=1, steps=3),
    }  # fmt: skip
    return ModelConfig(**{**fields, **changes})


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Longcat:
    """A random model that says something, and whose draft head is often right."""
    return talker(tiny_config(**changes), seed, noise=0.5, dtype=dtype)


def tiny_directory(folder: Path, **options: Any) -> Path:
    """The same as a saved Hugging Face directory."""
    path = folder / "model"
    homegrown.save(tiny_model(**options), tiny_tokenizer(), path)
    return path
