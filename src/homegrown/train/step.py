"""One optimizer step: micro-batches forward and backward, clipping, the guard's verdict, the update, the bias."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.config import ModelConfig, TrainConfig
from homegrown.data import Batch
from homegrown.model import Longcat
from homegrown.optim import lr_factor
from homegrown.parallel.zero import ShardedOptimizer
from homegrown.train.control import BiasController, StepGuard
from homegrown.train.health import HealthMonitor, health_ratios
from homegrown.train.losses import (
    TERMS,
    LossPlan,
    Micro,
    PartOutput,
    WholeRows,
    count_targets,
    draft_weight,
    forward_part,
    plan_losses,
)


@dataclass(frozen=True)
class StepResult:
    """What a step did, still on the device: nothing here has been waited for.

    Attributes:
        step: its number, from 1.
        tokens: input tokens of the global batch.
        terms: loss terms of the global batch, by the names in `TERMS`.
        grad_norm: before clipping.
        keep: 1, or 0 where the step was dropped.
        lr_factor: the schedule's factor.
        counts: int64 [layers, E + Z] slots given to each expert.
        health: [layers] router health R_g.
        plan: what the loss was made of.
    """

    step: int
    tokens: int
    terms: dict[str, Tensor]
    grad_norm: Tensor
    keep: Tensor
    lr_factor: float
    counts: Tensor
    health: Tensor
    plan: LossPlan


class Stepper:
    """A rank's part of the model, its optimizer and the controllers, moved on one global batch at a time.

    def __init__(self, model: Longcat, optimizer: ShardedOptimizer, config: TrainConfig, device: torch.device) -> None:
        self.model, self.optimizer, self.config, self.device = model, optimizer, config, device
        self.controller = BiasController(model, config.controller)
        self.guard = StepGuard(config.guard, device)
        self._leaves = Leaves()

    def step(self, step: int, batch: Batch) -> StepResult:
        """Take optimizer step number `step` (from 1) on this rank's rows of a global batch."""
        config, assembly = self.config, self.assembly
        tokens, first = torch.from_numpy(batch.tokens), torch.from_numpy(batch.first)
        plan = self._plan(step, first)
        size = config.data.micro_batch
        micros = [
            Micro(tokens[start : start + size].to(self.device), first[start : start + size])
            for start in range(0, len(tokens), size)
        ]
        work = _Work(config.model, plan, self.device)

        def forward(number: int, micro: int, hidden: Tensor | None) -> PartOutput:
            part = assembly.parts[number]
            assembly.begin_leaf(micro)
            out = forward_part(part.model, hidden, micros[micro], plan, self.portion, last=part.last)
            work.watch(number, part.layers, out)
            return out

        def done(number: int, micro: int) -> None:
            self._leaves.take(assembly.parts[number].model.named_parameters())

        assembly.pipeline.run(len(micros), forward, done)
        self._leaves.give(assembly.named_parameters())
        assembly.collect(len(micros))
        self.optimizer.reduce(plan.trains)
        terms, counts, health = work.totals(assembly)

        self.optimizer.reduce()
        norm = self.optimizer.grad_norm()
        if self._draft_begins(step):
            self.guard.forget()
        # The next-token loss alone: the other terms come and go with the step's number.
        keep = self.guard.judge(terms["lm"], norm)
        factor = lr_factor(config.schedule, step, config.steps)
        self.optimizer.step(factor, self._clip(norm), keep)
        self.optimizer.zero_grad()
        seen = config.data.global_batch * config.data.seq_len
        if plan.index_loss != "dense":
            self.controller.update(counts, seen, (step - 1) / max(1, config.steps - 1), keep)
        return StepResult(step, seen, terms, norm, keep, factor, counts, health, plan)

    def _plan(self, step: int, first: Tensor) -> LossPlan:
        config = self.config
        # Counted on the host, where the rows are: the device is not waited for.
        targets = all_reduce(count_targets(first, config.model), self.assembly.groups["data"])
        micro_batches = config.data.global_batch // config.data.micro_batch
        return plan_losses(
            config.loss, config.model, self.controller.target, targets, micro_batches, step, config.steps
        )

    def _draft_begins(self, step: int) -> bool:
        """Whether the draft head trains at this step and did not at the one before."""
        loss, steps = self.config.loss, self.config.steps
        return step > 1 and draft_weight(loss, step, steps) > 0 and not draft_weight(loss, step - 1, steps) > 0

    def _clip(self, norm: Tensor) -> Tensor | None:
        limit = self.config.optim.clip_norm
        return (limit / norm.clamp(min=limit)).to(torch.float32) if limit > 0 else None

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a continued run needs, by flat name: weights and biases, optimizer state, the guard's range."""
        state = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        state |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.state().items()}
        return state | {f"guard/{name}": tensor for name, tensor in self.guard.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "guard": {}}
        for name, tensor in state.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.optimizer.load(parts["optimizer"])
        self.guard.load_state_dict(parts["guard"])
