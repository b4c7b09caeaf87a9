"""A run: its directory, its record, and everything built from its configuration."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homegrown import device as devices
from homegrown.config import ConfigError, TrainConfig, build, read_toml, require, to_table, to_toml
from homegrown.config.atomic import write_text
from homegrown.data import Batch, Batches, DatasetError, TokenDataset
from homegrown.hub import pieces_from_directory
from homegrown.ledger import Ledger, MetricsWriter, SilentLedger, SilentMetrics, walk
from homegrown.model import Longcat, ParameterCount, count
from homegrown.parallel import flight
from homegrown.parallel.assembly import Assembly
from homegrown.parallel.collectives import gather_objects
from homegrown.parallel.groups import Group, Groups
from homegrown.parallel.layout import settle
from homegrown.parallel.parts import fill, load_shards
from homegrown.parallel.world import World, join
from homegrown.parallel.zero import ShardedOptimizer
from homegrown.tokenizer import Tokenizer
from homegrown.train.checkpoint import DISK, Checkpoints, Manifest, Memory, Place, Report
from homegrown.train.checkpoint.keys import Key, router_key
from homegrown.train.corruption import Checks
from homegrown.train.environment import environment
from homegrown.train.evaluate import ROWS, Score, Scorer, evaluate, scorer_of
from homegrown.train.growth import grown_tensors
from homegrown.train.spread import SpreadScorer
from homegrown.train.step import Stepper

ADJUSTABLE = {
    "run", "steps", "device", "threads", "log_every", "tensorboard", "checkpoint", "eval", "parallel", "recompute",
    "profile_steps",
    "offload", "check", "digest_every",
}  # fmt: skip
"""Keys that may change when a run is resumed; the others decide what the run is."""


class Workbench:
    """Everything a step needs, built from a configuration: device, data, model, optimizer. Nothing is written.

    Args:
        config: the run.
        world: this process among the others; found out from the environment if not given.

    Attributes:
        config: with the precision settled.
        world, layout, groups: who this process is, and whom it talks to.
        device, dtype: where and in what the step runs.
        dataset, batches: the data and its global order.
        assembly, stepper: new weights and what moves them.
        checks: against silent corruption; `None` where none are made.
    """

    def __init__(self, config: TrainConfig, world: World | None = None) -> None:
        self.world = join(config.device, config.parallel.timeout_s) if world is None else world
        self.device = self.world.device
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
        self.layout = settle(config.parallel, self.world.size, config.model, config.data)
        self.groups = Groups(self.layout, self.world.rank, config.parallel.timeout_s)
        self.batches = Batches(
            self.dataset.train, seq_len=config.data.seq_len, global_batch=config.data.global_batch, seed=config.seed
        )
        self.stepper = new_stepper(config, self.groups, self.device, features.bf16_fast)
        self.assembly = self.stepper.assembly
        self.checks: Checks | None = None
        if config.check.every:
            optimizer = self.stepper.optimizer
            self.checks = Checks(config, self.assembly, optimizer, self.groups, self.device, self.dtype)
            self.stepper.conduct = self.checks.conduct

    def batch(self, step: int) -> Batch:
        """This process's rows of the global batch of `step`, from 0 on."""
        each = self.config.data.global_batch // self.layout.dp
        first = self.layout.place(self.world.rank).dp * each
        return self.batches.batch(step, slice(first, first + each))

    @property
    def model(self) -> Longcat:
        """The model, where one process holds all of it.

        Raises:
            ConfigError: it is spread over several.
        """
        if self.world.size > 1:
            raise ConfigError("the model is spread over several processes; export a checkpoint to have it whole")
        return self.assembly.parts[0].model

    def scorer(self) -> Scorer:
        """What scores held-out text with the model as it is. Collective where the model is spread."""
        return scorer_of(self.model) if self.world.size == 1 else SpreadScorer(self.assembly, self.config, self.device)


@dataclass
class Run:
    """A run in progress: a workbench and its record.

    Attributes:
        step: optimizer steps finished.
        elapsed: seconds spent in steps, over all processes.
        notes: sentences about how the run was opened, to be shown once.
        memory: what a process holds, in a line.
    """

    bench: Workbench
    tokenizer: Tokenizer
    ledger: Ledger | SilentLedger
    metrics: MetricsWriter | SilentMetrics
    counted: ParameterCount
    environment: dict[str, Any]
    checkpoints: Checkpoints
    step: int = 0
    elapsed: float = 0.0
    notes: list[str] = field(default_factory=list)
    memory: str = ""

    @property
    def config(self) -> TrainConfig:
        """The resolved configuration."""
        return self.bench.config

    @property
    def model(self) -> Longcat:
        """The model being trained."""
        return self.bench.model

    @property
    def leads(self) -> bool:
        """Whether this process keeps the record and speaks."""
        return self.bench.world.rank == 0

    @property
    def dataset(self) -> TokenDataset:
        """The data."""
        return self.bench.dataset

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.config.run

    def save(self, places: Collection[Place] = DISK) -> None:
        """Begin a checkpoint of this moment. Training waits for a copy of the state; `settle` tells what became of it.

        Args:
            places: `disk`, `memory` or both.

        Raises:
            CheckpointError: see `settle`.
            CorruptionError: a check that is made before saving failed.
        """
        if self.bench.checks is not None:
            self.bench.checks.before_save(self.step)
        facts = {
            "elapsed_s": self.elapsed,
            "data_fingerprint": self.dataset.fingerprint,
            "model": to_table(self.config.model),
            "precision": self.config.precision,
        }
        self.checkpoints.save(self.step, self.bench.stepper.owned(), facts, places)

    def settle(self, *, wait: bool = False) -> list[Report]:
        """Record what became of checkpoints since the last call.

        Args:
            wait: for the one that is being written.

        Raises:
            CheckpointError: the state cannot be saved, or several checkpoints in a row could not be written.
        """
        reports = self.checkpoints.wait() if wait else self.checkpoints.poll()
        for report in reports:
            if report.place == "memory" and report.error is None:
                continue
            if report.error is None:
                self.ledger.append("checkpoint", step=report.step, name=report.path.name)
                self.metrics.write("event", step=report.step, event="checkpoint", detail={"step": report.step})
            else:
                detail = {"step": report.step, "error": report.error}
                self.ledger.append("fault", step=self.step, fault="checkpoint", detail=detail)
                self.metrics.write("event", step=self.step, event="checkpoint_failed", detail=detail)
        return reports

    def score(self, max_tokens: int = 0, progress: Callable[[int], None] = lambda tokens: None) -> Score:
        """Score the held-out split with the model as it is. Collective.

        Args:
            max_tokens, progress: as in `evaluate`.
        """
        scorer = self.bench.scorer()
        rows = scorer.rows if isinstance(scorer, SpreadScorer) else ROWS
        length = self.config.data.seq_len
        return evaluate(scorer, self.dataset.held, length, max_tokens=max_tokens, rows=rows, progress=progress)

    def close(self) -> None:
        """Wait for what is being written, and release the record's files."""
        self.checkpoints.close()
        self.ledger.close()
        self.metrics.close()
        flight.close()


def open_run(config: TrainConfig, world: World | None = None) -> Run:
    """Start a run, or continue the one in its directory from the newest sound checkpoint. Collective.

    Args:
        config: the run.
        world: as for `Workbench`.

    Raises:
        ConfigError: the directory holds a run that is configured otherwise.
        DatasetError: the data is not what the run was started with.
    """
    recorded = config.run / "config.toml"
    known = recorded.exists()
    if known:
        config = _continued(build(TrainConfig, read_toml(recorded), str(recorded)), config)
    world = join(config.device, config.parallel.timeout_s) if world is None else world
    if world.size > 1 or flight.WATCH in os.environ:
        flight.open(flight.record_path(config.run, world.rank), world.rank)
    bench = Workbench(config, world)
    config, everyone = bench.config, bench.groups["world"]
    # One process measures and keeps the record; it writes nothing before all have read what was there.
    leads = everyone.rank == 0
    facts = gather_objects(environment(bench.device, bench.dtype) if leads else {}, everyone)[0]
    facts["layout"] = bench.layout.describe()
    ledger: Ledger | SilentLedger = SilentLedger()
    metrics: MetricsWriter | SilentMetrics = SilentMetrics()
    if leads:
        path = config.run / "ledger.jsonl"
        config.run.mkdir(parents=True, exist_ok=True)
        ledger = Ledger.open(path) if path.exists() else _new_ledger(path)
        metrics = MetricsWriter(config.run / "metrics.jsonl")
        write_text(recorded, to_toml(config))
        write_text(config.run / "environment.json", json.dumps(facts, indent=1))
    checkpoints = Checkpoints(
        config.run / "checkpoints", keep=config.checkpoint.keep, group=bench.groups["saving"],
        layout=dataclasses.asdict(bench.layout), memory=_memory(config), run=_identity(ledger, everyone),
    )  # fmt: skip
    run = Run(bench, bench.dataset.tokenizer(), ledger, metrics, count(config.model), facts, checkpoints)
    wanted = bench.stepper.wanted()

    def choose(found: Manifest) -> dict[str, Tensor]:
        _require_same_data(run, found.facts)
        return wanted

    loaded = checkpoints.load(choose)
    run.notes += [f"passed over a damaged checkpoint: {complaint}" for complaint in loaded.complaints]
    if loaded.step is not None:
        run.step, run.elapsed = loaded.step, loaded.facts["elapsed_s"]
        run.notes.append(f"resumed at step {run.step}")
        bench.stepper.loaded()
    elif config.init != Path():
        _start_from(bench.stepper, config)
        run.notes.append(f"began with the weights of {config.init}")
    # Without a checkpoint nothing has been done, the sample of step 0 included.
    metrics.rewind(-1 if loaded.step is None else run.step)
    ledger.append(
        "resume" if known else "start",
        step=run.step, config=to_table(config), environment=facts, data_fingerprint=bench.dataset.fingerprint,
        damaged_checkpoints=loaded.complaints,
    )  # fmt: skip
    if known:
        metrics.write("event", step=run.step, event="resume", detail={"step": run.step, "damaged": loaded.complaints})
    return run


def set_determinism(on: bool) -> None:
    """Refuse operators whose result depends on timing; leave fresh memory unfilled, since no code here reads it."""
    # `use_deterministic_algorithms` does the same and imports PyTorch's compiler, which takes seconds.
    torch.set_deterministic_debug_mode("error" if on else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def new_stepper(config: TrainConfig, groups: Groups, device: torch.device, bf16_fast: bool) -> Stepper:
    """A rank's part of a new model and what moves it.

    Args:
        config: with the precision settled.
        groups: of the rank.
        device: where it computes; on the meta device, where a dry run builds it, weights have no values.
        bf16_fast: whether the device multiplies bfloat16 faster than float32.
    """
    dtype: torch.dtype = getattr(torch, config.precision)
    assembly = Assembly(config, groups.layout, groups, device, dtype)
    _begin(assembly, config)
    leaves = config.data.global_batch // (config.data.micro_batch * groups.layout.dp)
    optimizer = ShardedOptimizer(
        dict(assembly.named_parameters()), groups, config.optim, config.model, bf16_fast,
        ("n-gram tables",) if config.optim.ngram_rows == "lazy" else (),
        # Sums over several leaves are kept wider than a weight, and travel so.
        offload=config.offload in ("optimizer", "all"),
        gradient_dtype=None if leaves == 1 else torch.promote_types(dtype, torch.float32),
    )  # fmt: skip
    return Stepper(assembly, optimizer, config, device)


def _begin(assembly: Assembly, config: TrainConfig) -> None:
    """Weights of a run that begins, and which of them learn."""
    if assembly.device.type != "meta":
        _give_weights(assembly, config)
    if config.loss.indexer_stage == "dense" and config.loss.indexer_every:
        for name, parameter in assembly.named_parameters():
            parameter.requires_grad_(".indexer." in name)


def _give_weights(assembly: Assembly, config: TrainConfig) -> None:
    """Random ones, or a smaller model's."""
    source = config.growth.source
    grown = grown_tensors(source, config.model) if source != Path() else None
    for part in assembly.parts.values():
        if grown is None:
            fill(part.model, assembly.layout, assembly.rank, config.seed)
        else:
            load_shards(part.model, assembly.layout, assembly.rank, grown)


def _memory(config: TrainConfig) -> Memory | None:
    """Where copies in memory live, if any are made."""
    if not config.checkpoint.memory_every_steps:
        return None
    return Memory.of_run(config.run) if config.checkpoint.memory == Path() else Memory(config.checkpoint.memory)


def _identity(ledger: Ledger | SilentLedger, everyone: Group) -> str:
    """What tells this run from one that had its directory before: the hash its record begins with."""
    mine = next(walk(ledger.path)).hash if isinstance(ledger, Ledger) else ""
    return str(gather_objects(mine, everyone)[0])


def _new_ledger(path: Path) -> Ledger:
    ledger = Ledger.create(path)
    ledger.append("created")
    return ledger


def _start_from(stepper: Stepper, config: TrainConfig) -> None:
    """Weights from a Hugging Face directory: each owner reads the rows of its pieces. Collective."""
    state = stepper.wanted()
    masters = {key[:3]: tensor for text, tensor in state.items() if (key := Key.parse(text)) and key.kind == "master"}
    for layer in stepper.assembly.routers():
        bias = state[router_key(layer)]
        masters[f"layers.{layer}.mlp.router.e_score_correction_bias", 0, len(bias)] = bias
    for rows, values in pieces_from_directory(config.init, masters, config.model):
        masters[rows].copy_(values)
    stepper.loaded()


def _require_same_data(run: Run, facts: dict[str, Any]) -> None:
    recorded = facts["data_fingerprint"]
    if recorded != run.dataset.fingerprint:
        raise DatasetError(
            f"{run.config.data.path}: its fingerprint is {run.dataset.fingerprint[:12]}, but {run.path} was trained on "
            f"{recorded[:12]}; restore the data or choose another run directory"
        )


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
