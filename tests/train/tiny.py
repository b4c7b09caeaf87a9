"""The smallest runs that use everything the architecture has: a corpus, a dataset, configurations."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from homegrown.config import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    MtpConfig,
    NgramConfig,
    ScheduleConfig,
    SparseConfig,
    TrainConfig,
)
from homegrown.data import Intake, TokenDataset, open_corpus, tokenizer_for, write_dataset
from homegrown.ledger import read_metrics

WORDS = ("def", "return", "self", "value", "for", "in", "range", "print", "if", "else:", "x = 1", "é")


def write_corpus(folder: Path, documents: int = 100, seed: int = 0, long: int = 40) -> Path:
    """Made-up source files, most of 1 to 6 lines, every eighth of `long`."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(documents):
        count = long if index % 8 == 0 else rng.randint(1, 6)
        lines = [" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(count)]
        (folder / f"file{index:03d}.py").write_text("\n    ".join(lines) + f"\n# {index}\n", "utf-8")
    return folder


def write_tokens(corpus: Path, out: Path, held_fraction: float = 0.2) -> TokenDataset:
    """A dataset of about 300 token ids."""
    intake = Intake([open_corpus(str(corpus))], held_fraction=held_fraction)
    return write_dataset(intake, tokenizer_for(intake, 300), out)


def model_config(**changes: Any) -> ModelConfig:
    """Two layers with every feature on; sequences of more than 12 tokens select keys."""
    fields: dict[str, Any] = {
        "vocab_size": 304, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 2, "q_lora_rank": 16,
        "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16, "n_routed_experts": 6, "zero_expert_num": 3, "moe_topk": 3,
        "routed_scaling_factor": 2.0, "max_position_embeddings": 256,
        "ngram": NgramConfig(order=3, splits=2, ratio=3.1),
        "sparse": SparseConfig(topk=12, heads=4, head_dim=8, init_tokens=1, local_tokens=4),
        "mtp": MtpConfig(layers=1, steps=2),
    }  # fmt: skip
    return ModelConfig(**{**fields, **changes})


def train_config(data: Path, run: Path = Path("unused"), **changes: Any) -> TrainConfig:
    """Six steps of four sequences of 32 tokens in two micro-batches, float32, one thread; the last step moves too."""
    fields: dict[str, Any] = {
        "run": run, "steps": 6, "device": "cpu", "precision": "float32", "threads": 1,
        "model": model_config(),
        "data": DataConfig(path=data, seq_len=32, global_batch=4, micro_batch=2),
        "schedule": ScheduleConfig(warmup_steps=2, final=0.1),
        "checkpoint": CheckpointConfig(every_steps=2, every_minutes=0, keep=2),
        "eval": EvalConfig(
            every_steps=3, max_tokens=200, sample_every_steps=3, sample_prompts=("def ",), sample_tokens=6
        ),
    }  # fmt: skip
    return TrainConfig(**{**fields, **changes})


def replaced(config: Any, **changes: Any) -> Any:
    """A copy of a configuration; `part__key` reaches into a table."""
    for name, value in changes.items():
        part, _, rest = name.partition("__")
        inner = replaced(getattr(config, part), **{rest: value}) if rest else value
        config = dataclasses.replace(config, **{part: inner})
    return config


@contextmanager
def torch_settings() -> Iterator[None]:
    """Put back the process-wide settings that a workbench changes."""
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def final_state(run: Path, step: int) -> bytes:
    """The file that holds everything a run has become by `step`: weights, biases, optimizer, guard."""
    return (run / "checkpoints" / f"step-{step:08d}" / "rank-00000" / "__0_0.distcp").read_bytes()


TIMED = {
    "elapsed_s", "tokens_per_s", "tokens_per_s_per_device", "exposed_communication", "slowest_process", "peak_fraction",
    "memory_bytes",
}  # fmt: skip
"""Figures of metrics.jsonl that measure the machine."""


def story(run: Path, kinds: tuple[str, ...] = ("train", "eval", "sample")) -> list[dict[str, Any]]:
    """What metrics.jsonl says, without what depends on the machine."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] in kinds]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
