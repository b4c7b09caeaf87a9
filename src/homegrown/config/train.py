"""What a pretraining run is: data, batches, optimizer, losses, control, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from homegrown.config.model import ModelConfig, require
from homegrown.config.parallel import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the token shards are and how they become batches."""

    path: Path = Path("data")
    """Directory written by `homegrown data`: tokenizer, train and held-out shards, fingerprint."""
    seq_len: int = 512
    """Tokens a sequence."""
    global_batch: int = 8
    """Sequences a step, over all ranks and accumulation rounds."""
    micro_batch: int = 8
    """Sequences a forward pass; global_batch must be a multiple of it."""

    def __post_init__(self) -> None:
        require(self.seq_len >= 2, f"data.seq_len = {self.seq_len}: must be at least 2")
        require(self.micro_batch >= 1, f"data.micro_batch = {self.micro_batch}: must be at least 1")
        require(
            self.global_batch >= 1 and self.global_batch % self.micro_batch == 0,
            f"data.global_batch = {self.global_batch}: must be a multiple of data.micro_batch = {self.micro_batch}",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Muon for hidden matrices, AdamW for the rest; learning rates are those of the base width."""

    muon_lr: float = 0.02
    """Learning rate of Muon groups; an update has RMS 0.2 * lr (`0.2 * sqrt(max(rows, cols))` scaling)."""
    muon_momentum: float = 0.95
    muon_nesterov: bool = True
    muon_steps: int = 5
    """Newton-Schulz iterations."""
    muon_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of Newton-Schulz; `auto` takes bfloat16 where the device multiplies it faster."""
    hidden: Literal["muon", "adamw"] = "muon"
    """Optimizer of the hidden matrices."""
    adam_lr: float = 2e-3
    """Learning rate of AdamW groups that have no rate of their own below."""
    embed_lr: float = 6e-3
    ngram_lr: float = 2e-2
    ngram_rows: Literal["lazy", "all"] = "lazy"
    """`lazy`: a step moves only the table rows it looked up, at their cost alone (without sparse tensors on the
    device, at that of the whole table); `all`: plain AdamW, under which the other rows drift on while their moments
    fade."""
    head_lr: float = 2e-3
    indexer_lr: float = 2e-3
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-16
    """Far below the gradients' RMS, as LongCat-Flash found necessary."""
    weight_decay: float = 0.1
    """Decoupled; applies to matrices, never to norms, biases, embeddings or n-gram tables."""
    clip_norm: float = 1.0
    """Global gradient norm; 0 does not clip."""
    base_width: int = 0
    """Hidden size the rates were tuned at; AdamW rates of hidden and head matrices scale by
    base_width / hidden_size (arXiv 2509.01322 table 1). 0 means this model's own width: no scaling."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the run, as a factor in [0, 1] of each group's rate."""

    kind: Literal["wsd", "cosine"] = "wsd"
    """`wsd`: warm-up, stable, decay to zero in a square-root-free straight line; `cosine`: warm-up, half cosine."""
    warmup_steps: int = 20
    decay_fraction: float = 0.3
    """wsd: the share of all steps spent decaying."""
    final: float = 0.0
    """Factor at the last step."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms; the next-token loss has weight one."""

    mtp: float = 0.3
    """Multi-token prediction, averaged over the draft steps, at the start of the run."""
    mtp_final: float = 0.1
    """The same at the end; linear in between."""
    mtp_start: float = 0.0
    """Share of the run after which the draft head begins to train (LongCat introduces it mid-training)."""
    mtp_every: int = 1
    """Train the draft head every this many steps; its three passes and unembeddings cost more than a small trunk."""
    balance: float = 1e-3
    """α of the device-level balance loss (arXiv 2509.01322 section 2)."""
    balance_groups: int = 1
    """D: groups of routed experts that the balance loss levels, plus one group of all zero experts."""
    z: float = 1e-7
    """λ of the hidden z-loss on the last hidden state before the final norm."""
    indexer: float = 1.0
    """Weight of the indexer's KL; its inputs are detached, so this only scales the indexer's own gradient."""
    indexer_every: int = 1
    """Compute the indexer's KL every this many steps; 0 never."""
    indexer_stage: Literal["sparse", "dense"] = "sparse"
    """`sparse`: KL over the selected keys, everything trains; `dense`: over all visible keys and the indexer alone
    trains (warm-up)."""

    def __post_init__(self) -> None:
        require(self.mtp_every >= 1, f"loss.mtp_every = {self.mtp_every}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """The bias controller that holds the mean number of real experts per token at its target."""

    target_experts: float = 0.0
    """K_e, expected real experts a token; 0 means moe_topk * n_routed / (n_routed + n_zero)."""
    mu: float = 1e-3
    """Step size of the bias, at the start of the run."""
    mu_final: float = 0.0
    """The same at the end; linear in between."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Skips a step whose loss or gradient norm is non-finite or far outside the recent range."""

    window: int = 128
    """Accepted steps that form the recent range."""
    sigma: float = 6.0
    """Standard deviations above the recent mean at which a step is skipped; 0 skips non-finite steps only."""
    min_history: int = 32
    """Accepted steps before the range counts."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved and how much is kept."""

    every_steps: int = 200
    every_minutes: float = 15.0
    """Whichever comes first; 0 turns either off."""
    keep: int = 2
    """Newest checkpoints kept."""
    memory_every_steps: int = 0
    """Steps between copies in host memory, which are quicker and outlive the processes; another host keeps a second
    one of each. 0 keeps none."""
    memory: Path = Path()
    """Folder for these copies, in memory; empty takes one under /dev/shm."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Checks against silent data corruption: devices that compute, keep or send wrong bits and say nothing. What they
    find ends the run before it reaches a checkpoint, and names the rank."""

    every: int = 0
    """Steps between checks: all holders of a weight have its owner's bits, a micro-batch computed twice gives the same
    bits, all ranks compute the same sample alike. With checks on, they are also made before each save. 0 makes none."""
    products: bool = False
    """At those steps, compare the sums of rows and columns of every matrix product with what its factors say."""

    def __post_init__(self) -> None:
        require(self.every >= 0, f"check.every = {self.every}: must not be negative")
        require(
            not self.products or self.every > 0,
            "check.products: products are checked in steps that are checked; set check.every as well",
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out scoring and samples while training."""

    every_steps: int = 200
    """0 scores only at the end."""
    max_tokens: int = 32768
    """Held-out tokens scored while training; the final score uses all of them."""
    sample_every_steps: int = 400
    """0 samples only at the end."""
    sample_prompts: tuple[str, ...] = ("import os\n\ndef ", "class ", "    def __init__(self")
    sample_tokens: int = 96
    sample_temperature: float = 0.6


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """Model-growth initialisation: start from a shallower trained model, its layers stacked in order."""

    source: Path = Path()
    """A Hugging Face directory whose layer count divides this model's; empty trains from random weights."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One pretraining run. `homegrown train FILE` reads it from TOML; flags override the file."""

    run: Path = Path("runs/train")
    """Run directory: config, ledger, metrics, checkpoints."""
    steps: int = 1000
    """Optimizer steps."""
    seed: int = 0
    """Seeds the initial weights and the data order."""
    device: str = "auto"
    """`auto` takes the accelerator PyTorch finds, else the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of weights and activations in the step; float32 masters are kept either way. `auto` takes bfloat16
    where the device multiplies it faster."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again instead of keeping it: `selective`, what is large and cheap (norms, gated
    products, expanded keys and values, experts' inputs); `full`, every layer from its input: least memory, about a
    third more work. The numbers are the same."""
    offload: Literal["none", "activations", "optimizer", "all"] = "none"
    """What is kept in the host's memory meanwhile: `activations`, what the backward pass needs; `optimizer`, masters
    and optimizer state, brought to the device piece by piece for the update; `all`, both."""
    deterministic: bool = True
    """Refuse operators whose result depends on timing."""
    threads: int = 0
    """CPU threads; 0 takes all cores this process may use."""
    tensorboard: bool = False
    """Write TensorBoard events beside metrics.jsonl (needs the `tensorboard` extra)."""
    profile_steps: int = 0
    """Steps to record with PyTorch's profiler, from the third on: RUN/profile/rank-00000.json opens in Perfetto and
    in chrome://tracing. 0 records none."""
    log_every: int = 1
    """Steps between lines in metrics.jsonl."""
    digest_every: int = 0
    """Steps between digests of state and data in the ledger, for `homegrown verify`; 0 writes none."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    init: Path = Path()
    """Start from the weights of a Hugging Face directory of the same model; empty starts from random ones."""
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps = {self.steps}: must be at least 1")
        require(self.digest_every >= 0, f"digest_every = {self.digest_every}: must not be negative")
        require(
            self.deterministic or not self.check.every,
            "check.every: what is computed twice has the same bits only with deterministic = true; set check.every = 0",
        )
        require(
            self.model.n_routed_experts % self.loss.balance_groups == 0,
            f"loss.balance_groups = {self.loss.balance_groups}: must divide model.n_routed_experts = "
            f"{self.model.n_routed_experts}",
        )
        require(
            0 <= self.controller.target_experts <= self.model.moe_topk,
            f"controller.target_experts = {self.controller.target_experts}: must lie between 0 and model.moe_topk = "
            f"{self.model.moe_topk}",
        )
