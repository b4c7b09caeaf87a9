"""One optimizer step: micro-batches forward and backward, clipping, the guard's verdict, the update, the bias."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.config import TrainConfig
from homegrown.data import Batch
from homegrown.model import Longcat
from homegrown.optim import Optimizer, lr_factor
from homegrown.train.activations import kept_as_configured
from homegrown.train.control import BiasController, StepGuard
from homegrown.train.health import HealthMonitor
from homegrown.train.losses import (
    TERMS,
    LossPlan,
    Micro,
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
    """Model, optimizer and controllers, moved on one global batch at a time."""

    def __init__(self, model: Longcat, optimizer: Optimizer, config: TrainConfig, device: torch.device) -> None:
        self.model, self.optimizer, self.config, self.device = model, optimizer, config, device
        self.controller = BiasController(model, config.controller)
        self.guard = StepGuard(config.guard, device)
        self.keeping = kept_as_configured(config, model, device)

    def step(self, step: int, batch: Batch) -> StepResult:
        """Take optimizer step number `step` (from 1) on a global batch."""
        config, size = self.config, self.config.data.micro_batch
        tokens, first = torch.from_numpy(batch.tokens), torch.from_numpy(batch.first)
        rows = tokens.shape[0]
        target = self.controller.target
        targets = count_targets(first, config.model)
        plan = plan_losses(config.loss, config.model, target, targets, rows // size, step, config.steps)
        health = HealthMonitor(config.model, plan, self.device)
        choices = config.model.n_routed_experts + config.model.zero_expert_num
        counts = torch.zeros(config.model.num_layers, choices, dtype=torch.int64, device=self.device)
        terms = {name: torch.zeros((), device=self.device) for name in TERMS}
        for start in range(0, rows, size):
            micro = slice(start, start + size)
            with self.keeping():
                rows_here = Micro(tokens[micro].to(self.device), first[micro])
                out = forward_part(self.model, None, rows_here, plan, WholeRows())
            health.watch(range(config.model.num_layers), out.routing, out.balance)
            out.loss.backward()
            for name, value in zip(TERMS, out.terms, strict=True):
                terms[name] += value
            # Counted here, once per token, whatever is recomputed in the backward pass.
            counts += torch.stack([layer.counts for layer in out.routing])

        norm = self.optimizer.grad_norm()
        if self._draft_begins(step):
            self.guard.forget()
        # The next-token loss alone: the other terms come and go with the step's number.
        keep = self.guard.judge(terms["lm"], norm)
        factor = lr_factor(config.schedule, step, config.steps)
        self.optimizer.step(factor, self._clip(norm), keep)
        self.optimizer.zero_grad()
        seen = rows * (tokens.shape[1] - 1)
        if plan.index_loss != "dense":
            self.controller.update(counts, seen, (step - 1) / max(1, config.steps - 1), keep)
        return StepResult(step, seen, terms, norm, keep, factor, counts, health.ratios(), plan)

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
        state |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.state_dict().items()}
        return state | {f"guard/{name}": tensor for name, tensor in self.guard.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "guard": {}}
        for name, tensor in state.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.guard.load_state_dict(parts["guard"])
