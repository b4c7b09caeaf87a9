"""The beginning of the whole story on one machine: text, tokenizer, shards, and how many steps the time allows."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from homegrown.config import ConfigError, TrainConfig, build, load_recipe, read_toml
from homegrown.data import Intake, Progress, TokenDataset, open_corpus, tokenizer_for, write_dataset
from homegrown.train.run import Workbench

CORPUS = "stdlib"
EVALUATION_SPEED = 2.0
"""Scoring reads tokens about this many times as fast as training (forward only, windows overlapping by half)."""
COMPARISON_SECONDS_PER_MB = 1.0
"""What compressing the training text for comparison costs."""
STEADY_SPEED = 0.8
"""Share of the speed measured at the start that a run keeps: between steps it scores, writes samples and saves, and a
machine that others use too slows down."""
CLOSING_SECONDS = 15.0
"""Start-up, samples, export and report."""
PROBED_STEPS = 8
PROBE_LENGTH = 1001
"""Length of the run that the probed steps pretend to belong to."""


@dataclass(frozen=True)
class Story:
    """A run ready to be trained.

    Attributes:
        config: the run.
        times: seconds of the stages so far.
        notes: sentences to show.
    """

    config: TrainConfig
    times: dict[str, float]
    notes: list[str]


def prepare(
    *, out: Path, minutes: float, steps: int, preset: str, anew: bool, seed: int, device: str, progress: Progress
) -> Story:
    """Make the data and settle the run's length.

    Args:
        out: the run's directory; the data goes to `out/data`.
        minutes: time to aim for, everything included, when `steps` is 0.
        steps: exact number of optimizer steps, or 0.
        preset: name of a recipe.
        anew: delete what `out` holds; otherwise continue it.
        seed: of weights and data order.
        device: as in `TrainConfig`.
        progress: told of the stages.

    Raises:
        ConfigError: `out` holds something that is not a run, or there is no such recipe.
    """
    started = time.perf_counter()
    config = dataclasses.replace(load_recipe(preset), run=out, seed=seed, device=device)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=out / "data"))
    _make_room(out, anew)
    dataset = _dataset(config, progress)
    times = {"corpus and tokenizer": time.perf_counter() - started}
    recorded = out / "config.toml"
    notes: list[str] = []
    if recorded.exists() and not steps:
        steps = build(TrainConfig, read_toml(recorded), str(recorded)).steps
    elif not steps:
        progress.stage("measuring this machine's speed", None)
        speed = _tokens_per_second(config)
        batch = config.data.global_batch * config.data.seq_len
        left = 60 * minutes - (time.perf_counter() - started) - _closing_seconds(dataset, speed)
        steps = max(1, int(left * STEADY_SPEED * speed / batch))
        notes.append(
            f"{speed:,.0f} tokens/s here: {steps:,} steps of {batch:,} tokens fit into {minutes:g} minutes "
            f"(to repeat this run exactly: --steps {steps})"
        )
        times["speed test"] = time.perf_counter() - started - times["corpus and tokenizer"]
    return Story(dataclasses.replace(config, steps=steps), times, notes)


def _make_room(out: Path, anew: bool) -> None:
    for leftover in out.glob(".data.*.tmp"):  # of a process that was killed while it wrote the data
        shutil.rmtree(leftover)
    ours = (out / "config.toml").exists() or (out / "data" / "dataset.json").exists()
    if out.exists() and not ours and any(out.iterdir()):
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


def _tokens_per_second(config: TrainConfig) -> float:
    """Mean speed of the run, from a few steps of each kind taken on weights that are then thrown away.

    Steps differ: some train the indexer, some the draft head as well.
    """
    loss, last = config.loss, PROBE_LENGTH
    bench = Workbench(dataclasses.replace(config, steps=last))

    def seconds(*numbers: int) -> float:
        taken = []
        for number in numbers:
            begun = time.perf_counter()
            bench.stepper.step(number, bench.batches.batch(number)).grad_norm.item()
            taken.append(time.perf_counter() - begun)
        # The first ones allocate and warm caches.
        return statistics.median(taken[1:])

    every = loss.indexer_every or last + 1
    ordinary = [number for number in range(1, last) if number % every] or list(range(1, last))
    plain = seconds(*ordinary[:PROBED_STEPS])
    total = plain
    if every <= last:
        total += (seconds(*[every] * 3) - plain) / every
    if config.model.mtp.layers:
        late = [number for number in range(last - 1, 0, -1) if number % loss.mtp_every == 0]
        drafting = next((number for number in late if number % every), late[0])
        total += (seconds(*[drafting] * 4) - plain) * (1 - loss.mtp_start) / loss.mtp_every
    return config.data.global_batch * config.data.seq_len / total


def _closing_seconds(dataset: TokenDataset, tokens_per_second: float) -> float:
    """What comes after the last step: held-out score, comparison with compressors, samples, export, report."""
    scoring = dataset.held.tokens / (EVALUATION_SPEED * tokens_per_second)
    return CLOSING_SECONDS + scoring + COMPARISON_SECONDS_PER_MB * dataset.train.bytes / 1e6
