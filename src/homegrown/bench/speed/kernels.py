"""Every op at the sizes of a model: each of its implementations against the op's floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from homegrown import ops
from homegrown.bench.interleave import Stopwatch, Tick
from homegrown.bench.record import origin
from homegrown.bench.speed.calls import Call, calls
from homegrown.bench.speed.contest import Contestant, contest
from homegrown.bench.speed.limits import Limits, name_of
from homegrown.bench.speed.models import config_of, difference
from homegrown.bench.speed.record import OURS, SCHEMA, SpeedRecord
from homegrown.config import UsageError, to_table
from homegrown.model import count


@dataclass(frozen=True, kw_only=True)
class KernelPlan:
    """What to measure.

    Attributes:
        shape: whose sizes.
        tokens: of the one row that each op is given; 1 is a decoding step.
        ops: names; none for all of them.
        dtypes: of the inputs.
        least_seconds: a turn repeats a call for at least so long.
        repetitions, warmup: rounds.
    """

    shape: str = "tiny"
    tokens: int = 512
    ops: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    least_seconds: float = 0.02
    repetitions: int = 5
    warmup: int = 1


def run_kernels(
    plan: KernelPlan,
    device: torch.device,
    argv: Sequence[str] = (),
    tick: Tick = lambda label: None,
    keeps_memory: bool = False,
    limits: Limits | None = None,
) -> SpeedRecord:
    """Measure.

    Raises:
        UsageError: there is no such op.
    """
    unknown = [name for name in plan.ops if name not in ops.OPS]
    if unknown:
        raise UsageError(f"no op {unknown[0]!r}; there are: {', '.join(sorted(ops.OPS))}")
    config = config_of(plan.shape, plan.tokens)
    tick("setting up")
    made: list[Contestant] = []
    for dtype in plan.dtypes:
        for call in calls(config, plan.tokens, dtype, device):
            if not plan.ops or call.op in plan.ops:
                made += _contestants(plan, call, dtype, device)
    limits = limits or Limits(device)
    outcome = contest(made, limits, device, plan.warmup, plan.repetitions, tick)
    return SpeedRecord(
        kind="kernels",
        schema=SCHEMA,
        origin=origin(device, argv, keeps_memory, []),
        shape={
            "name": plan.shape,
            "model": to_table(config),
            "parameters": {"total": count(config).total},
            "tokens": plan.tokens,
        },
        limits=outcome.limits,
        order=list(outcome.order),
        warmup=plan.warmup,
        repetitions=plan.repetitions,
        entries=outcome.entries,
        ran=ops.table(),
        formula="FLOPs: products of the forward pass, and twice that again backward. Bytes: inputs and output, "
        "backward a gradient of each as well",
        notes=["inputs that stay in the processor's cache can be read faster than the floor says"],
    )


def count_kernels(plan: KernelPlan) -> int:
    """How often `run_kernels` calls its `tick`, at most."""
    chosen = [op for name, op in ops.OPS.items() if not plan.ops or name in plan.ops]
    number = sum(2 * len(op.implementations) for op in chosen) * len(plan.dtypes)
    return 1 + (number + 3) * (plan.warmup + plan.repetitions)


def _contestants(plan: KernelPlan, call: Call, dtype: torch.dtype, device: torch.device) -> list[Contestant]:
    op = ops.OPS[call.op]
    with ops.using(**{call.op: "reference"}), torch.no_grad():
        wide = [tensor.to(torch.float64) for tensor in call.inputs] if _widens(call) else call.inputs
        right = call.run(*wide)
    moved = call.bytes + right.numel() * (dtype.itemsize if right.is_floating_point() else right.element_size())
    made = []
    for name in op.implementations:
        ways: list[tuple[str, Callable[[], Tensor], float, float]] = [
            ("forward", partial(_forward, call, name), call.flops, moved)
        ]
        if call.backward:
            way = partial(_both, call, name)
            ways.append(("forward and backward", way, call.flops * (1 + call.backward), 2 * moved))
        for case, run, flops, size in ways:
            result = run()
            units = _repeats(run, plan.least_seconds, device)
            made.append(
                Contestant(
                    case=f"{call.op}, {name_of(dtype)}, {case}", sizes={"tokens": plan.tokens}, implementation=OURS,
                    mode=name, run=partial(_again, run, units), units=units, flops=flops, bytes=size,
                    dtype=dtype, difference=difference(result, right) if right.is_floating_point() else None,
                )
            )  # fmt: skip
    return sorted(made, key=lambda item: item.case)  # stable: implementations of a case side by side


def _widens(call: Call) -> bool:
    """Eight-bit weights belong to the dtype of their activations."""
    return not call.op.startswith("int8")


@torch.no_grad()
def _forward(call: Call, implementation: str) -> Tensor:
    with ops.using(**{call.op: implementation}):
        return call.run(*call.inputs)


def _both(call: Call, implementation: str) -> Tensor:
    leaves = [tensor.detach().requires_grad_() for tensor in call.inputs]
    with ops.using(**{call.op: implementation}):
        out = call.run(*leaves)
        torch.autograd.backward(out, torch.ones_like(out))
    return out.detach()


def _again(run: Callable[[], Tensor], count: int) -> None:
    for _ in range(count):
        run()


def _repeats(run: Callable[[], Tensor], least: float, device: torch.device) -> int:
    """Calls that take about `least` seconds."""
    watch = Stopwatch(device)
    with watch.time("call"):
        run()
    return max(1, min(1000, int(least / max(watch.seconds["call"][0], 1e-7))))
