"""A made-up plan of three stages, with everything that a plan can have."""

from __future__ import annotations

from homegrown.plan.layout import Layout
from homegrown.plan.quantity import Interval
from homegrown.plan.results import Candidate, KernelTime, Memory, Plan, Scale, Span, Stage, StepTime

GB = 1e9


def about(value: float, factor: float = 1.3) -> Interval:
    return Interval(value, value / factor, value * factor)


def candidate(sequence: int, cp: int, scale: float = 1.0, **changes: object) -> Candidate:
    sizes = {"tp": 2, "cp": cp, "pp": 8, "dp": 3072 // cp, "ep": 256, "embp": 64} | changes
    layout = Layout(
        **sizes, parts=2, batch=49_152 * 8192 // sequence, sequence=sequence, schedule="interleaved", optimizer="muon",
    )  # fmt: skip
    compute = {
        "attention projections": 1.9, "attention core": 0.4 * sequence / 8192, "indexer": 0.2 * sequence / 8192,
        "dense feed-forward": 2.6, "experts": 1.8, "router": 0.1, "head": 0.25, "draft head": 0.2, "norms": 0.3,
        "recomputation": 0.6,
    }  # fmt: skip
    time = StepTime(
        compute={name: scale * seconds for name, seconds in compute.items()},
        exposed={"tp": 0.2 * scale, "ep": 0.5 * scale, "dp": 0.15, "pp": 0.05, "embp": 0.0},
        hidden={"ep": 1.4, "dp": 0.7},
        bubble=0.7 * scale,
        optimizer=0.12,
        imbalance=0.3 * scale,
        straggler=0.15 * scale,
        tokens=layout.tokens,
        flops=3.1e11 * layout.tokens,
        hardware_flops=3.4e11 * layout.tokens,
    )
    memory = Memory(
        parts={
            "weights": 14.2 * GB, "gradients": 7.1 * GB, "optimizer": 6.4 * GB, "activations": 38.0 * GB,
            "experts' slack": 5.5 * GB, "n-gram tables": 4.2 * GB, "communication": 10.5 * GB, "reserve": 4.0 * GB,
        },
        host=12 * GB,
    )  # fmt: skip
    return Candidate(layout=layout, time=time, memory=memory)


def spans(stages: int, count: int, forward: float, backward: float) -> tuple[Span, ...]:
    """1F1B, played by hand: a stage does what is ready, backward passes first, with at most its share in flight."""
    ends: dict[tuple[str, int, int], float] = {}
    free = [0.0] * stages
    done = [[0, 0] for _ in range(stages)]
    found = []
    while any(each != [count, count] for each in done):
        for stage in range(stages):
            ahead, behind = done[stage]
            back = (
                ends.get(("backward", stage + 1, behind))
                if stage < stages - 1
                else ends.get(("forward", stage, behind))
            )
            before = 0.0 if stage == 0 else ends.get(("forward", stage - 1, ahead))
            if behind < count and back is not None and (ahead - behind >= min(stages - stage, count - behind)):
                kind, number, ready, length = "backward", behind, back, backward
            elif ahead < count and before is not None and ahead - behind < stages - stage:
                kind, number, ready, length = "forward", ahead, before, forward
            else:
                continue
            start = max(free[stage], ready)
            free[stage] = ends[kind, stage, number] = start + length
            done[stage][kind == "backward"] += 1
            found.append(Span(device=stage, kind=kind, start=start, end=start + length, micro_batch=number))
    return tuple(found)


KERNELS = (
    KernelTime(name="experts, up and gate", part="experts", flops=4.1e14, bytes=1.1e12, seconds=1.1),
    KernelTime(name="experts, down", part="experts", flops=2.0e14, bytes=0.7e12, seconds=0.7),
    KernelTime(name="query latent", part="attention projections", flops=1.2e14, bytes=0.5e12, seconds=0.5),
    KernelTime(name="output", part="attention projections", flops=3.0e14, bytes=0.8e12, seconds=1.4),
    KernelTime(name="core", part="attention core", flops=0.5e14, bytes=0.2e12, seconds=0.4),
    KernelTime(name="scores", part="indexer", flops=0.3e14, bytes=0.3e12, seconds=0.2),
    KernelTime(name="up and gate", part="dense feed-forward", flops=5.5e14, bytes=0.9e12, seconds=1.7),
    KernelTime(name="down", part="dense feed-forward", flops=2.7e14, bytes=0.7e12, seconds=0.9),
    KernelTime(name="logits", part="head", flops=0.9e14, bytes=0.2e12, seconds=0.25, dtype="fp8"),
    KernelTime(name="router", part="router", flops=2e12, bytes=0.1e12, seconds=0.1),
    KernelTime(name="RMS norms", part="norms", flops=0.0, bytes=0.9e12, seconds=0.3, dtype=""),
)


def stage(name: str, sequence: int, cp: int, days: float, tokens: float) -> Stage:
    best = candidate(sequence, cp)
    rate = best.tokens_per_second
    return Stage(
        name=name,
        tokens=tokens,
        best=best,
        figures={
            "tokens": about(tokens, 1.0), "step_s": about(best.time.seconds), "tokens_per_s": about(rate),
            "tokens_per_s_device": about(rate / best.layout.devices), "tflops_device": about(130.0), "mfu": about(0.27),
            "memory": about(best.memory.total, 1.0), "mtbf_h": about(2.4, 2.0),
            "checkpoint_interval_s": about(310, 1.4), "goodput": Interval(0.94, 0.85, 0.975), "days": about(days),
            "device_hours": about(days * 24 * 50_000), "mwh": about(days * 1900, 1.5),
            "usd": about(days * 50_000 * 24 * 2.2, 2.0),
        },
        basis="of 486 TFLOP/s, the dense bf16 peak of X1 (a package); attention causal; recomputation not counted",
        others=(candidate(sequence, cp, 1.04), candidate(sequence, cp, 1.07, ep=128)),
        considered=12_345,
        fitting=678,
        seconds=1.2,
        capacity=144 * GB,
        kernels=KERNELS,
        limits={"bf16": 330e12, "fp8": 625e12, "memory": 3.6e12},
        timeline=spans(8, 24, 0.1, 0.2),
    )  # fmt: skip


def made_plan() -> Plan:
    """Three stages on 50,000 devices."""
    stages = (
        stage("8K", 8192, 1, 29.0, 33e12),
        stage("128K", 131072, 16, 4.1, 1.5e12),
        stage("1M", 1048576, 128, 2.2, 0.3e12),
    )
    totals = {
        "tokens": about(34.8e12, 1.0), "days": about(35.3), "device_hours": about(42.4e6), "mwh": about(67_000, 1.5),
        "usd": about(93e6, 2.0), "goodput": Interval(0.94, 0.85, 0.975),
    }  # fmt: skip
    scales = tuple(
        Scale(
            devices=devices,
            figures={"days": about(35.3 * 50_000 / devices), "mwh": about(67_000, 1.5), "usd": about(93e6, 2.0)},
        )
        for devices in (6250, 12500, 25000, 50000, 100000)
    )
    return Plan(
        model="LongCat-2.0",
        cluster="Pods of X1 <b>",
        devices=50_000,
        stages=stages,
        totals=totals,
        assumptions=("products in bf16", "848 of 50,000 devices are left as spares (106 nodes)"),
        command="homegrown plan --model longcat-2.0 --cluster x1 --devices 50000 --tokens 35T",
        scales=scales,
    )
