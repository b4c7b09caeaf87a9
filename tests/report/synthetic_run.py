"""A run directory such as a small pretraining run leaves behind: made up, deterministic, in the real formats."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from homegrown.config import EvalConfig, ModelConfig, TrainConfig, to_table, to_toml
from homegrown.ledger import Ledger, MetricsWriter

BASELINES = {"gzip -9": 2.1934, "xz -9e": 1.7421, "xz -9e primed": 1.3907}
FINAL_BPB = 1.4218
TOKENS_A_STEP = 4096
PROMPTS = ("import os\n\ndef ", "class ", "    def __init__(self")
LEARNING = (
    ["qx\x0cé  zz=~e\n\tK;;", "0 0 0\n0", " ,,) ("],
    ["the self the return\n    self self = (", "self(self):\n  ", ", self, self)"],
    [
        "open_file(path):\n    return path\n\ndef get",
        "Error(Exception):\n    pass\n",
        ", name):\n        self.name = name",
    ],
    [
        'walk(top, topdown=True):\n    """Directory tree generator.\n    """\n    for name in os.listdir(top):\n'
        "        yield os.path.join(top, name)\n",
        'Queue:\n    """A simple FIFO queue."""\n\n    def put(self, item):\n        self._items.append(item)\n',
        ", stream=None, *, buffer_size=8192):\n        self._stream = stream\n        self._size = buffer_size\n",
    ],
)
TEXT = '''import os
import sys


def main(argv=None):
    """Print the largest files below a directory."""
    argv = sys.argv[1:] if argv is None else argv
    sizes = []
    for folder, _, names in os.walk(argv[0]):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                sizes.append((os.path.getsize(path), path))
    for size, path in sorted(sizes, reverse=True)[:20]:
\tprint(f"{size:>12,}  {path}")  # a tab, and <tags> & "quotes"


if __name__ == "__main__":
    main()
'''
SOURCES = {
    "estimate": "12 W a core, by the processor's rated power; no counter could be read",
    "counter:rapl": "package",
}


@dataclass(frozen=True)
class Shape:
    """Size of the made-up run."""

    steps: int = 400
    layers: int = 4
    experts: int = 16
    zero: int = 8
    topk: int = 6


def write_run(path: Path, shape: Shape = Shape(), *, energy: str = "estimate") -> TrainConfig:
    """Write all five files of a run; returns its config."""
    config = _config(path, shape)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.toml").write_text(to_toml(config))
    (path / "export").mkdir(exist_ok=True)
    environment = {
        "homegrown": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "system": "Linux-6.1-x86_64",
        "device": {"type": "cpu", "name": "Example Processor 9000, 2 cores", "memory_bytes": 16 * 2**30, "cores": 2},
        "threads": 2, "dtype": "float32",
        "ops": [{"op": "attention", "chosen": "blocked", "reference": "plain"}],
        "peak_flops": {"float32": 1.62e11, "bfloat16": 9.1e10}, "bandwidth_bytes_per_s": 1.9e10,
    }  # fmt: skip
    (path / "environment.json").write_text(json.dumps(environment))
    lines = _train_lines(shape)
    _write_metrics(path, shape, lines)
    _write_ledger(path, config, environment, lines)
    (path / "analysis.json").write_text(json.dumps(_analysis(shape, energy)))
    return config


def _config(path: Path, shape: Shape) -> TrainConfig:
    model = ModelConfig(
        vocab_size=4096, hidden_size=192, num_layers=shape.layers, num_attention_heads=6, q_lora_rank=96,
        kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, ffn_hidden_size=384,
        expert_ffn_hidden_size=96, n_routed_experts=shape.experts, zero_expert_num=shape.zero, moe_topk=shape.topk,
    )  # fmt: skip
    return TrainConfig(run=path, steps=shape.steps, model=model, eval=EvalConfig(sample_prompts=PROMPTS))


def _train_lines(shape: Shape) -> list[dict]:
    random = np.random.default_rng(7)
    target = shape.topk * shape.experts / (shape.experts + shape.zero)
    skew = random.normal(0, 0.7, (shape.layers, shape.experts))
    lines = []
    for step in range(1, shape.steps + 1):
        progress = step / shape.steps
        bpb = 1.33 + 5.4 * math.exp(-9 * progress) + 0.7 * math.exp(-2.2 * progress) + random.normal(0, 0.05)
        skipped = step == shape.steps * 5 // 8
        real = target + 1.1 * math.exp(-6 * progress) + random.normal(0, 0.03)
        line = {
            "step": step,
            "tokens": step * TOKENS_A_STEP,
            "elapsed_s": step * 0.52 + (6.0 if progress > 0.5 else 0.0),
            "loss": math.nan if skipped else bpb * 2.6,
            "lm_loss": math.nan if skipped else bpb * 2.3,
            "bpb": math.nan if skipped else bpb,
            "mtp_loss": bpb * 2.55 + 0.2,
            "balance_loss": 1e-3 * (1 + math.exp(-8 * progress) + random.normal(0, 0.02)),
            "z_loss": 1e-7 * (30 + 10 * progress + random.normal(0, 1)),
            "indexer_loss": None,
            "grad_norm": math.inf if skipped else 0.3 + 3 * math.exp(-12 * progress) + abs(random.normal(0, 0.05)),
            "lr_factor": min(step / 20, 1, (1 - progress) / 0.3 + 1e-9),
            "skipped": skipped,
            "tokens_per_s": TOKENS_A_STEP / 0.52 * (1 + random.normal(0, 0.04)),
            "peak_fraction": 0.43 * (1 + random.normal(0, 0.04)),
            "real_experts": real,
            "active_params": 2.1e6 + 4.4e5 * real,
            "router_health": 0.02 * math.exp(random.normal(0, 0.3)) + 0.2 * math.exp(-20 * progress),
        }
        if step % max(shape.steps // 100, 1) == 0 or step == 1:
            load = np.exp(skew * (0.25 + math.exp(-5 * progress)) + random.normal(0, 0.08, skew.shape))
            load *= real / shape.topk / load.sum(1, keepdims=True)
            zero = 1 - load.sum(1, keepdims=True)
            line |= {
                "expert_load": np.round(np.concatenate([load, zero], 1), 5).tolist(),
                "router_similarity": 0.4 * math.exp(-5 * progress) + 0.02,
                "memory_bytes": int(1.1e9 + 2e8 * progress),
            }
        lines.append(line)
    return lines


def _write_metrics(path: Path, shape: Shape, lines: list[dict]) -> None:
    sampled = {shape.steps * number // (len(LEARNING) - 1): texts for number, texts in enumerate(LEARNING)}
    with MetricsWriter(path / "metrics.jsonl") as metrics:
        for step in range(shape.steps + 1):
            if step:
                line = {key: value for key, value in lines[step - 1].items() if key != "step"}
                metrics.write("train", step=step, **line)
                if line["skipped"]:
                    metrics.write("event", step=step, event="skipped_step", detail={"loss": math.nan})
            if step and step % (shape.steps // 8) == 0:
                final = step == shape.steps
                progress = step / shape.steps
                bpb = FINAL_BPB if final else 1.42 + 5.4 * math.exp(-9 * progress) + 0.6 * math.exp(-2.2 * progress)
                metrics.write("eval", step=step, split="held", bpb=bpb, tokens=32768, bytes=98304, final=final)
            for prompt, text in zip(PROMPTS, sampled.get(step, ()), strict=False):
                metrics.write("sample", step=step, prompt=prompt, text=text)


def _write_ledger(path: Path, config: TrainConfig, environment: dict, lines: list[dict]) -> None:
    start = datetime(2026, 7, 1, 9, 30, tzinfo=UTC)
    times = iter(start + timedelta(seconds=0.52 * number) for number in range(10**6))
    (path / "ledger.jsonl").unlink(missing_ok=True)
    with Ledger.create(path / "ledger.jsonl", sync=False, clock=lambda: next(times)) as ledger:
        ledger.append("start", step=0, config=to_table(config), environment=environment, data_fingerprint="5eed" * 16)
        for line in lines:
            ledger.append("step", step=line["step"], loss=float(line["loss"]).hex(), skipped=line["skipped"])
            if line["step"] % 200 == 0:
                ledger.append("checkpoint", step=line["step"], name=f"step-{line['step']:08d}")
        ledger.append("end", step=len(lines), export="export")


def _analysis(shape: Shape, energy: str) -> dict:
    random = np.random.default_rng(11)
    most = shape.layers * shape.topk
    target = shape.topk * shape.experts / (shape.experts + shape.zero)
    real = np.arange(most + 1) / shape.layers
    weight = np.exp(-0.5 * ((real - target) / 0.7) ** 2)
    rows = []
    for piece in _pieces(TEXT):
        wanted = target + (1.2 if piece.strip().isidentifier() else -0.8) + random.normal(0, 0.5)
        count = round(min(max(wanted, 0), shape.topk) * shape.layers) / shape.layers
        rows.append([piece, round(count, 3), 2.1e6 + 4.4e5 * count])
    return {
        "heldout": {"bpb": FINAL_BPB, "bytes": 812345, "tokens": 301222, "documents": 37},
        "baselines": BASELINES,
        "active_histogram": {
            "active_params": (2.1e6 + 4.4e5 * real).tolist(),
            "fraction": (weight / weight.sum()).tolist(),
        },
        "token_compute": {"title": f"held-out document 3, its first {len(rows)} tokens", "tokens": rows},
        "throughput": {
            "tokens_per_s": 7877.0,
            "flops_per_token": 8.9e6,
            "achieved_flops": 7.0e10,
            "peak_flops": {"float32": 1.62e11, "bfloat16": 9.1e10},
            "peak_fraction": 0.43,
        },
        "energy": {"joules": 5234.0, "source": energy, "detail": SOURCES[energy]},
        "parameters": {"total": 2.43e7, "active_min": 2.1e6, "active_mean": 3.86e6, "active_max": 4.74e6},
        "times": {"corpus": 3.1, "tokenizer": 8.4, "train": 214.0, "evaluate": 21.5, "analysis": 9.2},
    }


def _pieces(text: str) -> list[str]:
    """Words with the space before them, runs of white space, single signs: about what a byte-level BPE gives."""
    pieces: list[str] = []
    for letter in text:
        previous = pieces[-1] if pieces else ""
        joins = (previous[-1:].isalnum() or previous == " ") and letter.isalnum()
        if joins or (previous[-1:].isspace() and letter.isspace() and letter != "\n"):
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces
