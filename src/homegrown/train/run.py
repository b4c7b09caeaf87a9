"""A run: its directory, its record, and everything built from its configuration."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from homegrown import device as devices
from homegrown.config import ConfigError, TrainConfig, build, read_toml, require, to_table, to_toml
from homegrown.config.atomic import write_text
from homegrown.data import Batches, DatasetError, TokenDataset
from homegrown.ledger import Ledger, MetricsWriter
from homegrown.model import Longcat, ParameterCount, count, sparse_lookup
from homegrown.optim import build_optimizer
from homegrown.tokenizer import Tokenizer
from homegrown.train.checkpoint import Checkpoint, clean_up, load_newest, save_checkpoint
from homegrown.train.environment import environment
from homegrown.train.growth import grow
from homegrown.train.step import Stepper

ADJUSTABLE = {"run", "steps", "device", "threads", "log_every", "tensorboard", "checkpoint", "eval"}
"""Keys that may change when a run is resumed; the others decide what the run is."""


class Workbench:
    """Everything a step needs, built from a configuration: device, data, model, optimizer. Nothing is written.

    Attributes:
        config: with the precision settled.
        device, dtype: where and in what the step runs.
        dataset, batches: the data and its global order.
        model, stepper: new weights and what moves them.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.device = devices.pick(config.device)
        features = devices.describe(self.device).features
        if config.precision == "auto":
            config = dataclasses.replace(config, precision="bfloat16" if features.bf16_fast else "float32")
        self.config = config
        self.dtype: torch.dtype = getattr(torch, config.precision)
        devices.set_threads(config.threads)
        devices.keep_host_memory()
        set_determinism(config.deterministic)
        self.dataset = TokenDataset.open(config.data.path)
        require(
            self.dataset.vocab_size <= config.model.vocab_size,
            f"model.vocab_size = {config.model.vocab_size}: the tokenizer of {config.data.path} has "
            f"{self.dataset.vocab_size} ids",
        )
        self.batches = Batches(
            self.dataset.train, seq_len=config.data.seq_len, global_batch=config.data.global_batch, seed=config.seed
        )
        self.model = _new_model(config, self.device, self.dtype)
        lazy = ("n-gram tables",) if config.optim.ngram_rows == "lazy" else ()
        if lazy and self.model.ngram_embeddings is not None:
            self.model.ngram_embeddings.lookup = sparse_lookup
        optimizer = build_optimizer(self.model, config.optim, config.model, features.bf16_fast, lazy)
        self.stepper = Stepper(self.model, optimizer, config, self.device)


@dataclass
class Run:
    """A run in progress: a workbench and its record.

    Attributes:
        step: optimizer steps finished.
        elapsed: seconds spent in steps, over all processes.
        notes: sentences about how the run was opened, to be shown once.
    """

    bench: Workbench
    tokenizer: Tokenizer
    ledger: Ledger
    metrics: MetricsWriter
    counted: ParameterCount
    environment: dict[str, Any]
    step: int = 0
    elapsed: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> TrainConfig:
        """The resolved configuration."""
        return self.bench.config

    @property
    def model(self) -> Longcat:
        """The model being trained."""
        return self.bench.model

    @property
    def dataset(self) -> TokenDataset:
        """The data."""
        return self.bench.dataset

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.config.run

    def save(self) -> Path:
        """Write a checkpoint of this moment."""
        facts = {"elapsed_s": self.elapsed, "data_fingerprint": self.dataset.fingerprint}
        root = self.path / "checkpoints"
        saved = save_checkpoint(root, self.step, self.bench.stepper.state_dict(), facts, self.config.checkpoint.keep)
        self.ledger.append("checkpoint", step=self.step, name=saved.name)
        return saved

    def close(self) -> None:
        """Release the record's files."""
        self.ledger.close()
        self.metrics.close()


def open_run(config: TrainConfig) -> Run:
    """Start a run, or continue the one in its directory from the newest sound checkpoint.

    Raises:
        ConfigError: the directory holds a run that is configured otherwise.
        DatasetError: the data is not what the run was started with.
    """
    recorded = config.run / "config.toml"
    if recorded.exists():
        config = _continued(build(TrainConfig, read_toml(recorded), str(recorded)), config)
    bench = Workbench(config)
    config = bench.config
    facts = environment(bench.device, bench.dtype)

    config.run.mkdir(parents=True, exist_ok=True)
    ledger_path = config.run / "ledger.jsonl"
    known = ledger_path.exists()
    run = Run(
        bench, bench.dataset.tokenizer(),
        Ledger.open(ledger_path) if known else Ledger.create(ledger_path),
        MetricsWriter(config.run / "metrics.jsonl"), count(config.model), facts,
    )  # fmt: skip
    write_text(recorded, to_toml(config))
    write_text(config.run / "environment.json", json.dumps(facts, indent=1))
    clean_up(config.run / "checkpoints")
    checkpoint, complaints = load_newest(config.run / "checkpoints")
    run.notes += [f"passed over a damaged checkpoint: {complaint}" for complaint in complaints]
    if checkpoint is not None:
        _resume(run, checkpoint)
    # Without a checkpoint nothing has been done, the sample of step 0 included.
    run.metrics.rewind(-1 if checkpoint is None else run.step)
    run.ledger.append(
        "resume" if known else "start",
        step=run.step, config=to_table(config), environment=facts, data_fingerprint=bench.dataset.fingerprint,
        damaged_checkpoints=complaints,
    )  # fmt: skip
    if known:
        run.metrics.write("event", step=run.step, event="resume", detail={"step": run.step, "damaged": complaints})
    return run


def set_determinism(on: bool) -> None:
    """Refuse operators whose result depends on timing; leave fresh memory unfilled, since no code here reads it."""
    # `use_deterministic_algorithms` does the same and imports PyTorch's compiler, which takes seconds.
    torch.set_deterministic_debug_mode("error" if on else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _new_model(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> Longcat:
    with torch.device(device):
        model = Longcat(config.model)
    if config.growth.source != Path():
        grow(model, config.growth.source)
    else:
        model.init_weights(config.seed)
    model.cast(dtype)
    if config.loss.indexer_stage == "dense" and config.loss.indexer_every:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".indexer." in name)
    return model


def _resume(run: Run, checkpoint: Checkpoint) -> None:
    recorded = checkpoint.facts["data_fingerprint"]
    if recorded != run.dataset.fingerprint:
        raise DatasetError(
            f"{run.config.data.path}: its fingerprint is {run.dataset.fingerprint[:12]}, but {run.path} was trained on "
            f"{recorded[:12]}; restore the data or choose another run directory"
        )
    run.bench.stepper.load_state_dict(checkpoint.tensors)
    run.step, run.elapsed = checkpoint.step, checkpoint.facts["elapsed_s"]
    run.notes.append(f"resumed at step {run.step}")


def _continued(recorded: TrainConfig, asked: TrainConfig) -> TrainConfig:
    """The configuration of a resumed run: what was recorded, with the adjustable keys as asked now."""
    if asked.precision == "auto":
        asked = dataclasses.replace(asked, precision=recorded.precision)
    old, new = to_table(recorded), to_table(asked)
    different = [key for key in old if key not in ADJUSTABLE and old[key] != new.get(key)]
    if different:
        changes = [f"{key} = {value!r} (recorded: {was!r})" for key, was, value in _changes(old, new, different)]
        raise ConfigError(
            f"{asked.run} holds a run configured otherwise: {'; '.join(changes)}; restore these, or choose another "
            "run directory"
        )
    return asked


def _changes(old: dict[str, Any], new: dict[str, Any], keys: list[str]) -> list[tuple[str, Any, Any]]:
    """Dotted key, old and new value of everything under `keys` that differs."""
    rows: list[tuple[str, Any, Any]] = []
    for key in keys:
        below, above = old[key], new.get(key)
        if isinstance(below, dict) and isinstance(above, dict):
            changed = [name for name in below if below[name] != above.get(name)]
            rows += [(f"{key}.{name}", was, value) for name, was, value in _changes(below, above, changed)]
        else:
            rows.append((key, below, above))
    return rows
