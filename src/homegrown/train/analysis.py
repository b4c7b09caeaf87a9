"""What is worked out once a run has ended: held-out score, baselines, compute per token, throughput, energy."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from homegrown.config.atomic import write_text
from homegrown.data import baselines
from homegrown.ledger import Ledger, read_metrics
from homegrown.model import Longcat, training_flops
from homegrown.train.environment import dtype_name
from homegrown.train.evaluate import Score
from homegrown.train.run import Run

SHOWN_TOKENS = 700
"""Length of the text that is coloured by compute."""
SURVEYED_TOKENS = 32768
"""Held-out tokens whose compute makes the histogram."""


def analyse(
    run: Run, model: Longcat | None, score: Score | None, compare: bool, times: dict[str, float]
) -> dict[str, Any]:
    """Work out `analysis.json` and write it.

    Args:
        run: a finished run.
        model: the whole model; `None` where it fits nowhere, and then compute per token is not shown.
        score: of the whole held-out split; `None` where nothing is held out, and then nothing is said of it.
        compare: compress the held-out text for comparison (about a second a megabyte of training text).
        times: seconds of the stages so far; this one's are added.
    """
    started = time.perf_counter()
    result: dict[str, Any] = {
        "throughput": throughput(run),
        "energy": energy(run),
        "parameters": parameters(run),
    }
    if score is not None:
        result |= {
            "heldout": {
                "bpb": score.bits_per_byte,
                "bytes": score.text_bytes,
                "tokens": score.tokens,
                "documents": score.documents,
            },
            "baselines": baselines(run.dataset).table() if compare else {},
        }
        if model is not None:
            result |= {"active_histogram": active_histogram(run, model), "token_compute": token_compute(run, model)}
    result["times"] = {**times, "analysis": time.perf_counter() - started}
    write_text(run.path / "analysis.json", json.dumps(result, indent=1))
    return result


def real_experts(model: Longcat, tokens: Tensor) -> Tensor:
    """Real experts given to each token, mean over layers: float32 [B, S] for int64 [B, S]."""
    with torch.no_grad():
        trunk = model.trunk(tokens, model.context(tokens))
    real = [(layer.index_NK < model.config.n_routed_experts).sum(-1) for layer in trunk.routing]
    return torch.stack(real).float().mean(0).view(tokens.shape)


def active_histogram(run: Run, model: Longcat) -> dict[str, list[float]]:
    """How many parameters held-out tokens are given: each possible count and the share of tokens that got it."""
    config, length = run.config.model, run.config.data.seq_len
    layers, most = config.num_layers, config.num_layers * config.moe_topk
    counts = torch.zeros(most + 1, dtype=torch.int64)
    seen = 0
    for index in range(run.dataset.held.documents):
        ids = torch.from_numpy(run.dataset.held.document(index).astype("int64"))
        for part in ids.split(length):
            real = real_experts(model, part[None].to(run.bench.device)).flatten().cpu()
            counts += torch.bincount((real * layers).round().long(), minlength=most + 1)
            seen += len(part)
        if seen >= SURVEYED_TOKENS:
            break
    share = (counts / counts.sum()).tolist()
    return {"active_params": [run.counted.active(total / layers) for total in range(most + 1)], "fraction": share}


def token_compute(run: Run, model: Longcat) -> dict[str, Any]:
    """A piece of held-out text with the compute each of its tokens was given."""
    held = run.dataset.held
    lengths = [len(held.document(index)) for index in range(held.documents)]
    # The first document long enough, else the longest: a choice that does not depend on the model.
    enough = [index for index, length in enumerate(lengths) if length >= SHOWN_TOKENS]
    index = enough[0] if enough else lengths.index(max(lengths))
    length = min(SHOWN_TOKENS, run.config.model.max_position_embeddings)
    ids = torch.from_numpy(held.document(index)[:length].astype("int64"))
    real = real_experts(model, ids[None].to(run.bench.device))[0].tolist()
    stream = run.tokenizer.stream(skip_special=True)
    texts = [stream.push(token) for token in ids.tolist()]
    rows = [[text, round(count, 3), run.counted.active(count)] for text, count in zip(texts, real, strict=True) if text]
    return {"title": f"held-out document {index}, its first {len(rows)} tokens", "tokens": rows}


def throughput(run: Run) -> dict[str, Any]:
    """Median speed of the run's steps against the measured peak."""
    lines = [line for line in read_metrics(run.path / "metrics.jsonl") if line["kind"] == "train"]
    peak = run.environment["peak_flops"]
    speed = statistics.median(line["tokens_per_s"] for line in lines)
    real = statistics.mean(line["real_experts"] for line in lines)
    flops = training_flops(run.config.model, run.counted, 1, run.config.data.seq_len, real)
    fraction = statistics.median(line["peak_fraction"] for line in lines)
    return {
        "tokens_per_s": speed,
        "flops_per_token": flops,
        "achieved_flops": fraction * peak[dtype_name(run.bench.dtype)],
        "peak_flops": peak,
        "peak_fraction": fraction,
    }


def energy(run: Run) -> dict[str, Any] | None:
    """Energy of the training loop, added over the processes that took part; `None` where it was not recorded."""
    readings = [record.payload for record in Ledger.read(run.path / "ledger.jsonl") if record.kind == "energy"]
    if not readings:
        return None
    return {
        "joules": sum(part["joules"] for part in readings),
        **{key: readings[-1][key] for key in ("source", "detail")},
    }


def parameters(run: Run) -> dict[str, float]:
    """Parameters held, and active at none, the mean and the most real experts."""
    lines = [line for line in read_metrics(run.path / "metrics.jsonl") if line["kind"] == "train"]
    return {
        "total": run.counted.total + run.counted.mtp,
        "active_min": run.counted.active(0),
        "active_mean": lines[-1]["active_params"],
        "active_max": run.counted.active(run.config.model.moe_topk),
    }
