"""Runs on a few processes, some of which compute, keep or send wrong bits. What came of each is told to the tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homegrown.config import CheckConfig, DataConfig, ParallelConfig, TrainConfig
from homegrown.ops.registry import Implementation, wrapping
from homegrown.parallel.world import World
from homegrown.train.corruption import CorruptionError
from homegrown.train.corruption.watch import record_corruption
from homegrown.train.digest import digest, rows_digest
from homegrown.train.run import Workbench, open_run

from . import tiny

P = ParallelConfig
CHECKED = CheckConfig(every=1)
STEPS = 2

Fault = Callable[[Workbench], AbstractContextManager[None]]
"""Breaks the process whose workbench it is given, within a block."""


def config_of(data: Path, parallel: ParallelConfig, rows: int = 4, **changes: Any) -> TrainConfig:
    """Two layers of everything, and a global batch of `rows` micro-batches."""
    config = tiny.train_config(
        data, model=tiny.model_config(n_routed_experts=8, zero_expert_num=4), parallel=parallel, steps=STEPS,
    )  # fmt: skip
    rows_of = DataConfig(path=data, seq_len=24, global_batch=rows, micro_batch=1)
    return tiny.replaced(config, data=rows_of, **changes)


# Faults


def flipped(tensor: Tensor, bit: int = 3) -> Tensor:
    """The same numbers, but for a bit of the last one."""
    wrong = tensor.detach().clone()
    raw = wrong.view(-1)[-1:].view(torch.uint8)
    raw[0] ^= 1 << bit
    return wrong


def _wrong(out: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """An op's result with other bits, and its gradient."""
    return out + (change(out) - out.detach())


@contextmanager
def broken_op(name: str, times: int = 1 << 30, change: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """An op that goes wrong in its first calls: by its least significant bits, if nothing else is said."""
    left = [times]
    change = change or (lambda out: torch.nextafter(out.detach(), torch.full_like(out, torch.inf)))

    def wrap(implementation: Implementation) -> Implementation:
        def op(*args: Any, **kwargs: Any) -> Tensor:
            out: Tensor = implementation(*args, **kwargs)
            left[0] -= 1
            return _wrong(out, change) if left[0] >= 0 else out

        return op

    with wrapping("broken", **{name: wrap}):
        yield


def on(rank: int, fault: Fault) -> Fault:
    """The fault on one rank."""
    return lambda bench: fault(bench) if bench.world.rank == rank else nullcontext()


@contextmanager
def wrong_gradient(bench: Workbench, name: str) -> Iterator[None]:
    """A bit of a parameter's gradient flips in the first backward pass, and never again."""
    left = [1]

    def flip(gradient: Tensor) -> Tensor:
        left[0] -= 1
        return flipped(gradient) if left[0] >= 0 else gradient

    handle = dict(bench.assembly.named_parameters())[name].register_hook(flip)
    yield
    handle.remove()


# What is tried


def trained(
    world: World,
    config: TrainConfig,
    fault: Fault | None = None,
    *,
    from_the_start: bool = False,
    between: Callable[[Workbench], None] | None = None,
) -> dict[str, Any]:
    """Two steps with the checks that `config` asks for: losses, norms, digests; or the fault that was found.

    Args:
        fault: in force in steps and checks; those before the first step come before it, if not said otherwise.
        between: done after the first step's update, before it is checked.
    """
    bench = Workbench(config, world)
    told: dict[str, Any] = {"steps": [], "error": None}
    try:
        if bench.checks is not None and not from_the_start:
            bench.checks.before_save(0)
        with nullcontext() if fault is None else fault(bench):
            if bench.checks is not None:
                bench.checks.before_save(0)
            for number in range(STEPS):
                result = bench.stepper.step(number + 1, bench.batch(number))
                told["steps"].append((result.terms["total"].item(), result.grad_norm.item(), result.health.tolist(),
                                      result.counts.tolist()))  # fmt: skip
                if between is not None and number == 0:
                    between(bench)
                if bench.checks is not None:
                    bench.checks.between_steps(number + 1)
        told["digest"] = digest(bench.stepper.owned(), bench.groups["world"])
    except CorruptionError as error:
        told["error"] = str(error)
        told["suspects"] = {rank: (each.tensor, each.what) for rank, each in error.suspects.items()}
        told["check"] = error.check
    return told


def both(world: World, config: TrainConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """A healthy run without checks, and with them."""
    return trained(world, config), trained(world, tiny.replaced(config, check=CHECKED))


def flip_weight(rank: int, name: str) -> Callable[[Workbench], None]:
    def between(bench: Workbench) -> None:
        if bench.world.rank == rank:
            weight = dict(bench.assembly.named_parameters())[name].detach()
            weight.copy_(flipped(weight))

    return between


def flip_master(name: str) -> Callable[[Workbench], None]:
    """Flip a high bit of whoever owns a piece of a parameter."""

    def between(bench: Workbench) -> None:
        for key, tensor in bench.stepper.optimizer.state().items():
            if key.startswith(f"{name}@") and key.endswith("/master"):
                raw: Tensor = tensor.view(-1)[:1].view(torch.int32)
                raw ^= 1 << 24

    return between


def pair(world: World, data: Path, folder: Path) -> dict[str, Any]:
    """Everything that two processes try."""
    checked = lambda parallel, **changes: config_of(data, parallel, **{"check": CHECKED, **changes})  # noqa: E731
    matrix, gate = "layers.1.self_attn.0.q_b_proj.weight", "layers.0.mlps.0.gate_proj.weight"
    seconds = time.perf_counter()
    told: dict[str, Any] = {
        "healthy": {
            name: both(world, config_of(data, parallel))
            for name, parallel in {"data": P(), "tensor": P(tp=2), "context": P(cp=2), "experts": P(ep=2),
                                   "pipeline": P(pp=2)}.items()
        },
        "products": trained(world, checked(P(), check=CheckConfig(every=1, products=True))),
        "gradient, data": trained(world, checked(P(), rows=2), on(1, lambda bench: wrong_gradient(bench, matrix))),
        "gradient, tensor": trained(world, checked(P(tp=2), rows=1), on(1, lambda bench: wrong_gradient(bench, gate))),
        "op, tensor": trained(world, checked(P(tp=2), rows=1), on(1, lambda _: broken_op("swiglu", 3))),
        "op, pipeline": trained(world, checked(P(pp=2), rows=1), on(1, lambda _: broken_op("rms_norm", 2))),
        "op, context": trained(world, checked(P(cp=2), rows=1), on(0, lambda _: broken_op("linear", 1))),
        "weight": trained(world, checked(P()), between=flip_weight(1, matrix)),
        "weight, bfloat16": trained(world, checked(P(tp=2), precision="bfloat16"), between=flip_weight(0, gate)),
        "master": trained(world, checked(P()), between=flip_master(matrix)),
        "core": trained(world, checked(P()), on(1, lambda _: broken_op("attention")), from_the_start=True),
        "core, later": trained(world, checked(P()), on(1, lambda _: broken_op("latent_attention"))),
        "wrong product": trained(
            world, checked(P(), rows=2, check=CheckConfig(every=1, products=True)),
            on(1, lambda _: broken_op("linear", change=lambda out: out.detach() + out.detach().abs().amax())),
        ),
        "run": recorded(world, config_of(data, P(), rows=2, run=folder / "run", check=CHECKED)),
        "digests": digests(world, data),
    }  # fmt: skip
    return told | {"seconds": time.perf_counter() - seconds}


def four(world: World, data: Path) -> dict[str, Any]:
    """Everything that four processes try."""
    checked = lambda parallel, **changes: config_of(data, parallel, **{"check": CHECKED, **changes})  # noqa: E731
    seconds = time.perf_counter()
    told: dict[str, Any] = {
        "healthy": {
            name: both(world, config_of(data, parallel))
            for name, parallel in {"tensor, data": P(tp=2), "experts of four": P(ep=4, embp=2),
                                   "pipeline, context": P(pp=2, cp=2)}.items()
        },
        "core": trained(world, checked(P()), on(2, lambda _: broken_op("attention")), from_the_start=True),
        "transient in the sample": trained(
            world, checked(P()), on(1, lambda _: broken_op("rms_norm", 1)), from_the_start=True
        ),
        "op, experts": trained(world, checked(P(ep=4)), on(2, lambda _: broken_op("experts", 1))),
        "op, pipeline, tensor": trained(world, checked(P(pp=2, tp=2), rows=1), on(3, lambda _: broken_op("rotary", 1))),
        "weight": trained(world, checked(P(tp=2)), between=flip_weight(3, "norm.weight")),
        "digests": digests(world, data),
    }  # fmt: skip
    return told | {"seconds": time.perf_counter() - seconds}


def digests(world: World, data: Path) -> dict[str, Any]:
    """Digests of state and data of two steps of data parallelism, and of one of the most spread layout."""
    bench = Workbench(config_of(data, P()), world)
    bench.stepper.step(1, bench.batch(0))
    told: dict[str, Any] = {"data": [rows_digest(bench, step) for step in range(2)]}
    told["state"] = digest(bench.stepper.owned(), bench.groups["world"])
    other = Workbench(config_of(data, P(tp=2)), world)
    return told | {
        "tensor, data": rows_digest(other, 1),
        "tensor, fresh": digest(other.stepper.owned(), other.groups["world"]),
    }


def recorded(world: World, config: TrainConfig) -> dict[str, Any]:
    """A run that saves every step, one of whose processes goes wrong in the second."""
    run = open_run(config, world)
    try:
        for number in range(STEPS):
            fault = broken_op("swiglu", 1) if world.rank == 1 and number == 1 else nullcontext()
            with fault:
                run.bench.stepper.step(number + 1, run.bench.batch(number))
            run.step += 1
            run.save()
            run.settle(wait=True)
    except CorruptionError as error:
        record_corruption(run, error)
        return {"error": str(error), "step": run.step}
    finally:
        run.close()
    return {"error": None}
