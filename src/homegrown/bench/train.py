"""One training step, against the machine's matrix-multiply peak and against the peer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from homegrown import device as devices
from homegrown.bench.interleave import Stopwatch, Tick, interleave
from homegrown.bench.peer import PEER, build_peer, refuse_missing_peer
from homegrown.bench.record import Agreement, Comparison, Entry, Record, Spread, origin
from homegrown.bench.shapes import Shape
from homegrown.config import OptimConfig, UserError, to_table
from homegrown.model import Longcat, count, shifted
from homegrown.model.count import training_flops
from homegrown.parallel.zero import build_optimizer

OURS = "homegrown"

LOSS_TOLERANCE = 1e-4
"""Nats. In float32 the two sum in different orders (1e-6), and a router's near-tie may fall either way for a token."""
GRADIENT_TOLERANCE = 1e-2
"""Of the gradient's norm, for the same reasons."""
PEAK_SECONDS = 0.2
"""Time given to each measurement of the peak."""

FORMULA = (
    "tokens * (6 * active parameters + attention sublayers * 6 * heads * (qk_head_dim + v_head_dim) * seq_len / 2): "
    "2 FLOPs forward and 4 backward for each parameter a token is multiplied with (embedding rows not counted, real "
    "experts at their measured mean), causal attention counted as half, recomputation and optimizer not counted"
)


class MismatchError(UserError):
    """Two implementations that do not compute the same: timing them against each other would mean nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What to measure.

    Attributes:
        shape: model and batch.
        repetitions: measured rounds.
        warmup: rounds before them: allocators, caches and compilers settle.
        peer: measure the peer too.
        compiled: also its compiled modes, which take minutes to compile.
        optimizer: measure an optimizer step too: `adamw` is AdamW for both, `muon` is Muon on our hidden matrices
            against the peer's AdamW.
        seed: of weights and tokens.
    """

    shape: Shape
    repetitions: int = 5
    warmup: int = 2
    peer: bool = True
    compiled: bool = False
    optimizer: Literal["none", "adamw", "muon"] = "none"
    seed: int = 0


@dataclass
class Contestant:
    """An implementation in a mode, ready to step.

    Attributes:
        implementation, mode: what it is.
        peak_dtype: whose matrix-multiply peak limits it.
        model: holds the weights and, after a step, their gradients.
        loss_of: mean next-token loss of int64 tokens [B, S], in nats.
        optimize: one optimizer step that leaves the weights as they are, or `None`.
    """

    implementation: str
    mode: str
    peak_dtype: torch.dtype
    model: nn.Module
    loss_of: Callable[[Tensor], Tensor]
    optimize: Callable[[], object] | None = None

    @property
    def label(self) -> str:
        """Implementation and mode."""
        return f"{self.implementation} {self.mode}"

    def step(self, tokens: Tensor) -> Tensor:
        """Forward and backward; gradients of the step before are dropped first, as optimizers do."""
        self.model.zero_grad(set_to_none=True)
        loss = self.loss_of(tokens)
        loss.backward()
        return loss.detach()


def run_train(
    plan: TrainPlan,
    device: torch.device,
    argv: Sequence[str] = (),
    tick: Tick = lambda label: None,
    keeps_memory: bool = False,
) -> Record:
    """Measure.

    Args:
        plan: what.
        device: where.
        argv: the command's arguments, for the record.
        tick: told what runs next; `rounds(plan)` says how often.
        keeps_memory: for the record.

    Raises:
        MismatchError: the implementations disagree about loss or gradient.
        UserError: the peer is not installed or does not compute this architecture.
    """
    tokens = random_tokens(plan.shape, plan.seed).to(device)
    tick("setting up")
    ours = _our_contestants(plan, device)
    agreement, theirs = None, []
    if plan.peer:
        refuse_missing_peer()
        theirs = _peer_contestants(plan, build_peer(_longcat(ours[0])))
        agreement = check_agreement(ours[0], theirs[0], tokens)
    contestants = [*ours, *theirs]
    measured = _measure(plan, contestants, tokens, device, tick)
    real = _real_experts(_longcat(ours[0]), tokens)
    counted = count(plan.shape.model)
    flops = training_flops(plan.shape.model, counted, plan.shape.tokens, plan.shape.seq_len, real)
    entries = [_entry(contestant, plan, measured, flops) for contestant in contestants]
    packages = [PEER] if plan.peer else []
    on_cpu = device.type == "cpu"
    return Record(
        kind="train",
        schema=1,
        origin=origin(device, argv, keeps_memory, packages),
        shape={
            "name": plan.shape.name,
            "batch": plan.shape.batch,
            "seq_len": plan.shape.seq_len,
            "tokens": plan.shape.tokens,
            "model": to_table(plan.shape.model),
            "parameters": {"total": counted.total, "active": round(counted.active(real))},
        },
        flops={"per_step": flops, "formula": FORMULA, "real_experts": real},
        peaks=measured.peaks,
        order=list(measured.order),
        warmup=plan.warmup,
        repetitions=plan.repetitions,
        entries=entries,
        agreement=agreement,
        comparison=_comparison(entries, lambda entry: entry.seconds),
        processor_comparison=_comparison(entries, lambda entry: entry.processor_seconds) if on_cpu else None,
    )


def turns(plan: TrainPlan) -> int:
    """How often `run_train` calls its `tick`."""
    modes = 2 + (3 * (1 + plan.compiled) if plan.peer else 0)
    return 1 + (plan.warmup + plan.repetitions) * (modes + 2)


def random_tokens(shape: Shape, seed: int) -> Tensor:
    """int64 [B, S], uniform over the vocabulary without its first four, special, tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, shape.model.vocab_size, (shape.batch, shape.seq_len), generator=generator)


def check_agreement(ours: Contestant, theirs: Contestant, tokens: Tensor) -> Agreement:
    """Compare loss and gradient norm of one step.

    Raises:
        MismatchError: they differ by more than rounding explains.
    """
    loss, peer_loss = float(ours.step(tokens)), float(theirs.step(tokens))
    norm, peer_norm = _gradient_norm(ours.model), _gradient_norm(theirs.model)
    if not abs(loss - peer_loss) <= LOSS_TOLERANCE:
        raise MismatchError(
            f"{ours.label} has loss {loss:.6f} and {theirs.label} {peer_loss:.6f} on the same weights and tokens, more "
            f"than {LOSS_TOLERANCE} apart: they compute different functions, and are not compared"
        )
    if not abs(norm - peer_norm) <= GRADIENT_TOLERANCE * norm:
        raise MismatchError(
            f"{ours.label} has a gradient of norm {norm:.6g} and {theirs.label} of {peer_norm:.6g} on the same weights "
            f"and tokens, more than {GRADIENT_TOLERANCE:.0%} apart: they are not compared"
        )
    return Agreement(
        loss=loss,
        peer_loss=peer_loss,
        loss_tolerance=LOSS_TOLERANCE,
        gradient_norm=norm,
        peer_gradient_norm=peer_norm,
        gradient_tolerance=GRADIENT_TOLERANCE,
    )


def _gradient_norm(model: nn.Module) -> float:
    squares = [item.grad.double().square().sum() for item in model.parameters() if item.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


# Contestants


def _our_contestants(plan: TrainPlan, device: torch.device) -> list[Contestant]:
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        with device:
            model = Longcat(plan.shape.model)
        model.init_weights(plan.seed)
        model.cast(dtype)
        made.append(Contestant(OURS, _name(dtype), dtype, model, _our_loss(model), _our_optimizer(plan, model, device)))
    return made


def _our_loss(model: Longcat) -> Callable[[Tensor], Tensor]:
    def loss_of(tokens: Tensor) -> Tensor:
        trunk = model.trunk(tokens, model.context(tokens))
        targets = shifted(tokens, 1, fill=-1)
        total = model.lm_head.cross_entropy(trunk.output.flatten(0, 1), targets.flatten())
        return total / (tokens.shape[0] * (tokens.shape[1] - 1))

    return loss_of


def _our_optimizer(plan: TrainPlan, model: Longcat, device: torch.device) -> Callable[[], object] | None:
    if plan.optimizer == "none":
        return None
    bf16_fast = devices.describe(device).features.bf16_fast
    optimizer = build_optimizer(model, OptimConfig(hidden=plan.optimizer), model.config, bf16_fast)
    # A learning rate of zero costs what any other does, and every step stays the same.
    return lambda: optimizer.step(0.0, None, None)


def _peer_contestants(plan: TrainPlan, full: nn.Module) -> list[Contestant]:
    half = copy.deepcopy(full).to(torch.bfloat16)
    kind = next(full.parameters()).device.type
    optimizers = {model: _peer_optimizer(plan, model) for model in (full, half)}

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast(kind, dtype=torch.bfloat16)

    modes = [
        ("float32", torch.float32, full, nullcontext),
        ("autocast", torch.bfloat16, full, autocast),
        ("bfloat16", torch.bfloat16, half, nullcontext),
    ]
    made = [
        Contestant(PEER, name, dtype, model, _peer_loss(model, model, scope), optimizers[model])
        for name, dtype, model, scope in modes
    ]
    if plan.compiled:
        made += [
            Contestant(
                PEER, f"{name}, compiled", dtype, model, _peer_loss(model, torch.compile(model), scope),
                optimizers[model],
            )
            for name, dtype, model, scope in modes
        ]  # fmt: skip
    return made


def _peer_loss(
    model: nn.Module, call: Callable[..., object], scope: Callable[[], AbstractContextManager[object]]
) -> Callable[[Tensor], Tensor]:
    def loss_of(tokens: Tensor) -> Tensor:
        with scope():
            loss: Tensor = call(input_ids=tokens, labels=tokens).loss  # type: ignore[attr-defined]
        return loss

    return loss_of


def _peer_optimizer(plan: TrainPlan, model: nn.Module) -> Callable[[], object] | None:
    if plan.optimizer == "none":
        return None
    return torch.optim.AdamW(model.parameters(), lr=0.0, fused=True).step


def _longcat(contestant: Contestant) -> Longcat:
    if not isinstance(contestant.model, Longcat):
        raise TypeError(f"{contestant.label} is not a Homegrown model")
    return contestant.model


def _real_experts(model: Longcat, tokens: Tensor) -> float:
    """Mean number of real experts a token is given, over all layers."""
    with torch.no_grad():
        routing = model.trunk(tokens, model.context(tokens)).routing
    real = [(item.index_NK < model.config.n_routed_experts).sum(-1, dtype=torch.float32).mean() for item in routing]
    return float(torch.stack(real).mean())


# Measuring


@dataclass(frozen=True)
class _Measured:
    seconds: dict[str, list[float]]
    processor_seconds: dict[str, list[float]]
    losses: dict[str, float]
    peaks: dict[str, Spread]
    order: Sequence[str]


def _measure(
    plan: TrainPlan, contestants: list[Contestant], tokens: Tensor, device: torch.device, tick: Tick
) -> _Measured:
    watch = Stopwatch(device)
    losses: dict[str, float] = {}
    peaks: dict[str, list[float]] = {}
    work: dict[str, Callable[[], None]] = {}

    def step(contestant: Contestant) -> None:
        with watch.time(contestant.label):
            loss = contestant.step(tokens)
        losses.setdefault(contestant.label, float(loss))
        if contestant.optimize is not None:
            with watch.time(_optimizer_of(contestant)):
                contestant.optimize()
        contestant.model.zero_grad(set_to_none=True)

    def peak(dtype: torch.dtype) -> None:
        peaks.setdefault(_name(dtype), []).append(devices.measure_peak(device, dtype, PEAK_SECONDS))

    for contestant in contestants:
        work[contestant.label] = partial(step, contestant)
    for dtype in (torch.float32, torch.bfloat16):
        work[f"peak {_name(dtype)}"] = partial(peak, dtype)
    order = interleave(work, plan.warmup, plan.repetitions, tick)

    def measured(taken: dict[str, list[float]]) -> dict[str, list[float]]:
        return {name: values[plan.warmup :] for name, values in taken.items()}

    return _Measured(
        seconds=measured(watch.seconds),
        processor_seconds=measured(watch.processor_seconds),
        losses=losses,
        peaks={name: Spread.of(values) for name, values in measured(peaks).items()},
        order=order,
    )


def _optimizer_of(contestant: Contestant) -> str:
    return f"{contestant.label}, optimizer"


def _entry(contestant: Contestant, plan: TrainPlan, measured: _Measured, flops: float) -> Entry:
    seconds = Spread.of(measured.seconds[contestant.label])
    peak = measured.peaks[_name(contestant.peak_dtype)].maximum
    optimizer = measured.seconds.get(_optimizer_of(contestant))
    return Entry(
        implementation=contestant.implementation,
        mode=contestant.mode,
        peak_dtype=_name(contestant.peak_dtype),
        loss=measured.losses[contestant.label],
        seconds=seconds,
        processor_seconds=Spread.of(measured.processor_seconds[contestant.label]),
        tokens_per_s=plan.shape.tokens / seconds.median,
        achieved_flops=flops / seconds.median,
        peak_share=flops / seconds.median / peak,
        floor_seconds=flops / peak,
        optimizer_seconds=Spread.of(optimizer) if optimizer else None,
    )


def _comparison(entries: list[Entry], time_of: Callable[[Entry], Spread]) -> Comparison | None:
    ours, theirs = ([item for item in entries if item.implementation == name] for name in (OURS, PEER))
    if not theirs:
        return None
    our_best, peer_best = (min(side, key=lambda item: time_of(item).median) for side in (ours, theirs))
    rounds = zip(time_of(our_best).values, time_of(peer_best).values, strict=True)
    return Comparison(
        homegrown=our_best.mode,
        peer=peer_best.mode,
        ratio=time_of(peer_best).median / time_of(our_best).median,
        paired=Spread.of([peer / our for our, peer in rounds]),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
