"""The whole story on one machine: text, tokenizer, shards, a trained model, its score, its samples, its report."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import time
from pathlib import Path

from rich.console import Console

from homegrown.config import ConfigError, TrainConfig, build, load_recipe, read_toml
from homegrown.data import Intake, Progress, TokenDataset, open_corpus, tokenizer_for, write_dataset
from homegrown.train.pretrain import Finished, pretrain
from homegrown.train.run import Workbench

CORPUS = "stdlib"
EVALUATION_SPEED = 2.5
"""Scoring reads tokens about this many times as fast as training (forward only, windows overlapping by half)."""
COMPARISON_SECONDS_PER_MB = 1.0
"""What compressing the training text for comparison costs."""
CLOSING_SECONDS = 20.0
"""Start-up, samples, export and report."""
PROBED_STEPS = 6


def quickstart(
    *,
    out: Path,
    minutes: float,
    steps: int,
    preset: str,
    anew: bool,
    seed: int,
    device: str,
    console: Console,
    progress: Progress,
) -> Finished:
    """Tell the story.

    Args:
        out: the run's directory; the data goes to `out/data`.
        minutes: time to aim for, everything included, when `steps` is 0.
        steps: exact number of optimizer steps, or 0.
        preset: name of a recipe.
        anew: delete what `out` holds; otherwise continue it.
        seed: of weights and data order.
        device: as in `TrainConfig`.
        console, progress: where stages are shown.

    Raises:
        ConfigError: `out` holds something that is not a run, or there is no such recipe.
    """
    started = time.perf_counter()
    _make_room(out, anew)
    config = dataclasses.replace(load_recipe(preset), run=out, seed=seed, device=device)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=out / "data"))
    dataset = _dataset(config, progress)
    times = {"corpus, tokenizer, shards": time.perf_counter() - started}
    recorded = out / "config.toml"
    if recorded.exists() and not steps:
        chosen = build(TrainConfig, read_toml(recorded), str(recorded)).steps
    else:
        chosen = steps or _affordable_steps(config, dataset, 60 * minutes - times["corpus, tokenizer, shards"], console)
    times["speed test"] = time.perf_counter() - started - sum(times.values())
    config = dataclasses.replace(config, steps=chosen)
    return pretrain(config, console, times=times)


def _make_room(out: Path, anew: bool) -> None:
    ours = (out / "config.toml").exists() or (out / "data" / "dataset.json").exists()
    if out.exists() and any(out.iterdir()) and not ours:
        raise ConfigError(f"{out} exists and does not hold a run; choose another directory with --out")
    if anew and ours:
        shutil.rmtree(out)


def _dataset(config: TrainConfig, progress: Progress) -> TokenDataset:
    path = config.data.path
    if (path / "dataset.json").exists():
        return TokenDataset.open(path)
    intake = Intake([open_corpus(CORPUS)])
    tokenizer = tokenizer_for(intake, config.model.vocab_size, progress=progress)
    return write_dataset(intake, tokenizer, path, progress=progress)


def _affordable_steps(config: TrainConfig, dataset: TokenDataset, seconds: float, console: Console) -> int:
    """Optimizer steps that fit, after what comes behind them, at the speed of a few steps taken now."""
    with console.status("measuring this machine's speed"):
        bench = Workbench(config)
        taken = []
        for step in range(PROBED_STEPS):
            begun = time.perf_counter()
            bench.stepper.step(step + 1, bench.batches.batch(step)).grad_norm.item()
            taken.append(time.perf_counter() - begun)
    step_seconds = statistics.median(taken[2:])
    tokens_per_second = config.data.global_batch * config.data.seq_len / step_seconds
    closing = (
        CLOSING_SECONDS
        + dataset.held.tokens / (EVALUATION_SPEED * tokens_per_second)
        + COMPARISON_SECONDS_PER_MB * dataset.train.bytes / 1e6
    )
    steps = max(1, int((seconds - closing - sum(taken)) / step_seconds))
    console.print(
        f"{tokens_per_second:,.0f} tokens/s: {steps:,} steps of {config.data.global_batch} x {config.data.seq_len} "
        f"tokens fit the time (repeat this run exactly with --steps {steps})"
    )
    return steps
