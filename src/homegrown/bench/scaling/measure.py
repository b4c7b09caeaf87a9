"""Measuring: every case has its processes, which wait while others have their turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from homegrown.bench.interleave import Tick, interleave
from homegrown.bench.record import Spread, origin
from homegrown.bench.scaling.crew import Crew
from homegrown.bench.scaling.plan import Case, ScalingPlan, cases
from homegrown.bench.scaling.record import ScalingEntry, ScalingRecord, SumEntry
from homegrown.bench.scaling.work import Sums, SumTimes, Training, Turn
from homegrown.bench.train import MismatchError
from homegrown.config import to_table
from homegrown.data import TokenDataset
from homegrown.parallel.layout import settle

LOSS_TOLERANCE = 0.02
"""Nats, for the first step. Layouts sum in different orders, and bfloat16 keeps 8 bits of each number."""
SUMS = 5
"""Sums of each kind in a turn."""
SUM_LABEL = "sums"


def turns(plan: ScalingPlan, device: torch.device) -> int:
    """How often `run_scaling` calls its `tick`."""
    each = len(cases(plan, device)) + (plan.sum_bytes > 0)
    return each + each * (plan.warmup + plan.repetitions)


def run_scaling(
    plan: ScalingPlan,
    device: torch.device,
    argv: Sequence[str] = (),
    tick: Tick = lambda label: None,
    keeps_memory: bool = False,
) -> ScalingRecord:
    """Measure.

    All processes of all cases live at once, so that cases can take turns; those that have none wait without work.

    Args:
        plan: what.
        device: of one process; several take others of its type, or share the CPU.
        argv: the command's arguments, for the record.
        tick: told what runs next.
        keeps_memory: for the record.

    Raises:
        ConfigError: the model or batch cannot be shared as the plan says.
        DeviceError: there are fewer devices than processes.
        CrewError: a process failed.
        MismatchError: cases do not compute the same.
    """
    chosen = cases(plan, device)
    data = TokenDataset.open(plan.data).fingerprint if plan.data else ""
    taken: dict[str, list[list[Turn]]] = {case.name: [] for case in chosen}
    sums: list[list[SumTimes]] = []
    with ExitStack() as stack:
        work: dict[str, Callable[[], None]] = {}
        for case in chosen:
            tick(f"starting {case.name}")
            crew = _crew(stack, plan, device, case.name, case.processes, Training, case.config)
            work[case.name] = partial(_turn, crew, plan.steps, taken[case.name])
        if plan.sum_bytes:
            tick(f"starting {SUM_LABEL}")
            crew = _crew(stack, plan, device, SUM_LABEL, plan.processes, Sums, plan.sum_bytes, plan.timeout_s)
            work[SUM_LABEL] = partial(_turn, crew, SUMS, sums)
        order = interleave(work, plan.warmup, plan.repetitions, tick)
    refuse_other_losses({name: rounds[0][0].first_loss for name, rounds in taken.items()})
    return ScalingRecord(
        kind="scaling",
        schema=1,
        origin=origin(device, argv, keeps_memory, []),
        config=to_table(chosen[0].config),
        data=data,
        tokens=_tokens(plan),
        steps=plan.steps,
        order=list(order),
        warmup=plan.warmup,
        repetitions=plan.repetitions,
        entries=_entries(plan, chosen, taken),
        sums=_sums(plan, sums[plan.warmup :]),
    )


def refuse_other_losses(losses: dict[str, float]) -> None:
    """Raise `MismatchError` unless all cases found the loss of the first."""
    reference, *others = losses
    for name in others:
        if not abs(losses[name] - losses[reference]) <= LOSS_TOLERANCE:
            raise MismatchError(
                f"{name} begins with a loss of {losses[name]:.6f} and {reference} with {losses[reference]:.6f}, more "
                f"than {LOSS_TOLERANCE} apart: they compute different functions, and are not compared"
            )


def _crew(
    stack: ExitStack, plan: ScalingPlan, device: torch.device, name: str, size: int, kind: type, *arguments: object
) -> Crew:
    """A crew that goes home when the stack unwinds, or is ended where something failed."""
    crew = Crew(name, size, kind, *arguments, device=device.type, timeout_s=plan.timeout_s)

    def end(failed: type[BaseException] | None, *about: object) -> None:
        crew.close() if failed is None else crew.kill()

    stack.push(end)
    return crew


def _turn(crew: Crew, amount: int, results: list[list[Any]]) -> None:
    results.append(crew.ask(amount))


def _tokens(plan: ScalingPlan) -> int:
    return plan.config.data.global_batch * plan.config.data.seq_len


def _entries(plan: ScalingPlan, chosen: list[Case], taken: dict[str, list[list[Turn]]]) -> list[ScalingEntry]:
    seconds = {
        name: [max(turn.seconds for turn in members) / plan.steps for members in rounds[plan.warmup :]]
        for name, rounds in taken.items()
    }
    reference = seconds[chosen[0].name]
    return [_entry(plan, case, taken[case.name], seconds[case.name], reference) for case in chosen]


def _entry(
    plan: ScalingPlan, case: Case, taken: list[list[Turn]], seconds: list[float], reference: list[float]
) -> ScalingEntry:
    spread = Spread.of(seconds)
    used = [sum(turn.processor_seconds for turn in members) / plan.steps for members in taken[plan.warmup :]]
    config = case.config
    return ScalingEntry(
        name=case.name,
        processes=case.processes,
        threads=config.threads,
        layout=settle(config.parallel, case.processes, config.model, config.data).describe(),
        deterministic=config.deterministic,
        loss=taken[0][0].first_loss,
        seconds=spread,
        processor_seconds=Spread.of(used),
        tokens_per_s=_tokens(plan) / spread.median,
        ratio=statistics.median(reference) / spread.median,
        paired=Spread.of([one / this for one, this in zip(reference, seconds, strict=True)]),
    )


def _sums(plan: ScalingPlan, measured: list[list[SumTimes]]) -> list[SumEntry]:
    if not measured:
        return []
    ways: dict[str, Callable[[SumTimes], list[float]]] = {
        "tree order": lambda times: times.tree,
        "the backend's own": lambda times: times.backend,
    }
    return [
        SumEntry(
            name=name,
            processes=plan.processes,
            bytes=plan.sum_bytes // 4 * 4,
            seconds=Spread.of([max(statistics.median(way(times)) for times in members) for members in measured]),
        )
        for name, way in ways.items()
    ]
