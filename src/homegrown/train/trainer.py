"""The loop: step, measure, tell the callbacks; leave cleanly when asked to."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from homegrown import device as devices
from homegrown.model import training_flops
from homegrown.parallel import flight
from homegrown.parallel.collectives import gather
from homegrown.parallel.experts import imbalance
from homegrown.train.environment import dtype_name
from homegrown.train.health import router_similarity
from homegrown.train.run import Run
from homegrown.train.step import StepResult


class Callback:
    """Something that watches a run. Every hook may be left as it is; they are called in the order of the list."""

    def on_start(self, run: Run) -> None:
        """Before the first step of this process."""

    def on_step(self, run: Run, measured: Measured) -> None:
        """After a step, `run.step` being its number."""

    def on_end(self, run: Run, outcome: Outcome) -> None:
        """After the last step, also when the run was asked to stop; not after an exception."""


@dataclass(frozen=True)
class Measured:
    """A step's figures on the host, the same on all processes.

    Attributes:
        result: what the step did.
        values: the step's line in metrics.jsonl.
        clock: seconds on the first process's clock: what is decided by time is decided by this one.
        signal: number of the signal that asked any process to stop, or `None`.
    """

    result: StepResult
    values: dict[str, Any]
    clock: float
    signal: int | None

    @property
    def skipped(self) -> bool:
        """Whether the guard dropped the step."""
        return bool(self.values["skipped"])


@dataclass(frozen=True)
class Outcome:
    """How training ended: all steps done, or stopped by a signal (its number) after `step`."""

    step: int
    signal: int | None = None

    @property
    def finished(self) -> bool:
        """All steps are done."""
        return self.signal is None


def train(run: Run, callbacks: Sequence[Callback]) -> Outcome:
    """Run the steps that are left.

    SIGINT and SIGTERM, whichever process gets them, end the loop after the step in progress; callbacks then save and
    close.
    """
    for callback in callbacks:
        callback.on_start(run)
    stopped: int | None = None
    with _interrupts() as caught:
        meter = _Meter(run, caught)
        while run.step < run.config.steps and stopped is None:
            flight.step(run.step + 1)
            meter.begin()
            result = run.bench.stepper.step(run.step + 1, run.bench.batch(run.step))
            run.step += 1
            measured = meter.measure(result)
            flight.phase("between steps")
            for callback in callbacks:
                callback.on_step(run, measured)
            stopped = measured.signal
    outcome = Outcome(run.step, stopped if run.step < run.config.steps else None)
    for callback in callbacks:
        callback.on_end(run, outcome)
    return outcome


class _Meter:
    """Turns a step's tensors into figures; this is where the host waits for the device."""

    def __init__(self, run: Run, caught: list[int]) -> None:
        self.run, self.caught = run, caught
        world = run.bench.world.size
        # Utilisation is model FLOPs over the matrix-multiply peak that the first process measured, times processes.
        self.peak = run.environment["peak_flops"][dtype_name(run.bench.dtype)] * world
        self.load_every = max(1, run.config.steps // 100)
        self.begun = 0.0

    def begin(self) -> None:
        """A step begins: what callbacks did since the last one is not its time."""
        self.begun = time.perf_counter()

    def measure(self, result: StepResult) -> Measured:
        run, model = self.run, self.run.config.model
        names = list(result.terms)
        numbers = torch.stack([*result.terms.values(), result.grad_norm, result.keep, result.health.max()]).tolist()
        terms, (norm, keep, health) = dict(zip(names, numbers, strict=False)), numbers[len(names) :]
        seconds, waited = time.perf_counter() - self.begun, flight.waited()
        everyone = self._everyone(seconds, waited)
        run.elapsed += seconds
        routed = result.counts[:, : model.n_routed_experts].sum().item()
        real = routed / (result.tokens * model.num_layers)
        drafts = len(result.plan.draft_targets)
        flops = training_flops(model, run.counted, result.tokens, run.config.data.seq_len, real, drafts)
        values: dict[str, Any] = {
            "tokens": result.step * result.tokens,
            "elapsed_s": round(run.elapsed, 3),
            "loss": terms["total"],
            "lm_loss": terms["lm"],
            "bpb": terms["lm"] / math.log(2) / run.dataset.bytes_per_token,
            "mtp_loss": terms["mtp"] if drafts else None,
            "balance_loss": terms["balance"],
            "z_loss": terms["z"],
            "indexer_loss": terms["indexer"] if result.plan.index_loss != "off" else None,
            "grad_norm": norm,
            "lr_factor": result.lr_factor,
            "skipped": keep == 0,
            "tokens_per_s": result.tokens / seconds,
            "tokens_per_s_per_device": result.tokens / seconds / len(everyone),
            "exposed_communication": float((everyone[:, 2] / everyone[:, 1]).mean()),
            "peak_fraction": flops / seconds / self.peak,
            "real_experts": real,
            "active_params": run.counted.active(real),
            "router_health": health,
        }
        if result.step % self.load_every == 0 or result.step == 1:
            values |= self._rare(result, everyone)
        signal_number = int(everyone[:, 0].max())
        return Measured(result, values, clock=float(everyone[0, 4]), signal=signal_number or None)

    def _everyone(self, seconds: float, waited: float) -> Tensor:
        """What each process reports after a step, float64 [processes, 5]: the signal it caught, seconds, seconds of
        them in collectives, bytes held at most, its clock."""
        caught = self.caught[0] if self.caught else 0
        mine = [caught, seconds, waited, devices.peak_memory(self.run.bench.device), time.monotonic()]
        return gather(torch.tensor(mine, dtype=torch.float64), self.run.bench.groups["world"])

    def _rare(self, result: StepResult, everyone: Tensor) -> dict[str, Any]:
        routed = self.run.config.model.n_routed_experts
        share = result.counts / result.counts.sum(1, keepdim=True)
        load = torch.cat((share[:, :routed], share[:, routed:].sum(1, keepdim=True)), dim=1)
        routers = self.run.bench.assembly.routers().values()
        similarity = [router_similarity(router.classifier.weight) for router in routers]
        return {
            "expert_load": [[round(part, 5) for part in row] for row in load.tolist()],
            "router_similarity": torch.stack(similarity).mean().item(),
            "memory_bytes": int(everyone[:, 3].max()),
            **self._imbalance(),
            "slowest_process": int((everyone[:, 1] - everyone[:, 2]).argmax()),
        }

    def _imbalance(self) -> dict[str, float]:
        """The most tokens that came to one process's experts against the mean, in the worst layer of this stage."""
        bench = self.run.bench
        if not bench.assembly.dispatchers:
            return {}
        uneven = imbalance(bench.assembly.dispatchers, bench.groups["ep"], bench.device)
        return {"expert_imbalance": float(uneven.max())}


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one gets through."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[int(number)] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
