"""One optimizer step: micro-batches forward and backward, clipping, the guard's verdict, the update, the bias."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from homegrown.config import ModelConfig, TrainConfig
from homegrown.data import Batch
from homegrown.optim import lr_factor
from homegrown.parallel.assembly import Assembly
from homegrown.parallel.collectives import all_reduce
from homegrown.parallel.leaves import Leaves
from homegrown.parallel.tree import Accumulator
from homegrown.parallel.zero import ShardedOptimizer
from homegrown.train.activations import Kept, kept_as_configured, measure_activations
from homegrown.train.checkpoint.keys import Key, router_key
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

Forward = Callable[[int, int, Tensor | None], PartOutput]
"""(part, micro-batch, hidden state from the part before) -> what the part makes of it."""


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


class Conduct(Protocol):
    """Has the micro-batches of a step computed."""

    def __call__(
        self, step: int, micros: int, forward: Forward, done: Callable[[int, int], None], again: Forward
    ) -> None:
        """Run the pipeline over a step.

        Args:
            step: its number, from 1.
            micros, forward, done: as for `Pipeline.run`.
            again: computes a part as `forward` does, and notes nothing; for who wants to compute more than the step.
        """


class Stepper:
    """A rank's part of the model, its optimizer and the controllers, moved on one global batch at a time.

    Args:
        assembly: the parts of the model that live here, and how they are wired.
        optimizer: of their parameters.
        config: the run.
        device: where it computes.

    Attributes:
        conduct: what has micro-batches computed; replaced from outside by what looks at it closely.
    """

    def __init__(
        self, assembly: Assembly, optimizer: ShardedOptimizer, config: TrainConfig, device: torch.device
    ) -> None:
        self.assembly, self.optimizer, self.config, self.device = assembly, optimizer, config, device
        self.portion = assembly.portion or WholeRows()
        self.controller = BiasController(assembly.routers(), config.model, config.controller)
        self.guard = StepGuard(config.guard, device)
        self.keeping = kept_as_configured(config, [part.model for part in assembly.parts.values()], device)
        self._leaves = Leaves()
        self.conduct: Conduct = self._conduct

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

        def compute(number: int, micro: int, hidden: Tensor | None) -> PartOutput:
            part = assembly.parts[number]
            with self.keeping():
                return forward_part(part.model, hidden, micros[micro], plan, self.portion, last=part.last)

        def forward(number: int, micro: int, hidden: Tensor | None) -> PartOutput:
            assembly.begin_leaf(micro)
            out = compute(number, micro, hidden)
            work.watch(number, assembly.parts[number].layers, out)
            return out

        def done(number: int, micro: int) -> None:
            self._leaves.take(assembly.parts[number].parameters)

        self.conduct(step, len(micros), forward, done, compute)
        self._leaves.give(assembly.named_parameters())
        assembly.collect(len(micros))
        self.optimizer.reduce(plan.trains)
        terms, counts, health = work.totals(assembly)

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

    def _conduct(
        self, step: int, micros: int, forward: Forward, done: Callable[[int, int], None], again: Forward
    ) -> None:
        """Compute each micro-batch once."""
        self.assembly.pipeline.run(micros, forward, done)

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

    def kept(self, batch: Batch, recompute: str, offload: str) -> Kept:
        """Bytes that a micro-batch keeps here for its backward pass, under any setting of `TrainConfig`. Collective.

        Args:
            batch: this rank's rows; the first micro-batch of them is run forward.
            recompute, offload: the setting.
        """
        size = self.config.data.micro_batch
        tokens, first = torch.from_numpy(batch.tokens[:size]), torch.from_numpy(batch.first[:size])
        plan, micro = self._plan(1, torch.from_numpy(batch.first)), Micro(tokens.to(self.device), first)
        pipeline, total = self.assembly.pipeline, Kept(0, 0)
        self.assembly.begin_leaf(None)
        for part in self.assembly.parts.values():
            hidden = None
            if not part.first:
                hidden = torch.zeros(*pipeline.shape, dtype=pipeline.dtype, device=self.device, requires_grad=True)
            forward = partial(forward_part, part.model, hidden, micro, plan, self.portion, last=part.last)
            kept = measure_activations(forward, part.model, recompute, offload)
            total = Kept(total.device + kept.device, total.host + kept.host)
        return total

    def wanted(self) -> dict[str, Tensor]:
        """Everything this rank needs to continue, by the keys of checkpoints: the tensors themselves. Whoever writes
        into them calls `loaded`."""
        routers = {router_key(layer): bias.e_score_correction_bias for layer, bias in self.assembly.routers().items()}
        guard = {f"guard/{name}": tensor for name, tensor in self.guard.state_dict().items()}
        return self.optimizer.state() | routers | guard

    def owned(self) -> dict[str, Tensor]:
        """What of it this rank writes: of all ranks' together, everything once."""
        layout, rank = self.assembly.layout, self.assembly.rank
        return {
            key: tensor
            for key, tensor in self.wanted().items()
            if Key.parse(key) is not None or (rank == 0 if key.startswith("guard/") else layout.token_rank(rank) == 0)
        }

    def loaded(self) -> None:
        """Continue from what was written into `wanted`. Collective."""
        self.optimizer.loaded()


class _Work:
    """What the micro-batches of a step report, added up here and then over all processes."""

    def __init__(self, model: ModelConfig, plan: LossPlan, device: torch.device) -> None:
        choices = model.n_routed_experts + model.zero_expert_num
        self._health = HealthMonitor(model, plan, device)
        self._counts = torch.zeros(model.num_layers, choices, dtype=torch.int64, device=device)
        self._terms: dict[int, Accumulator] = {}

    def watch(self, number: int, layers: Iterable[int], out: PartOutput) -> None:
        """Note what part `number` made of a micro-batch, before its backward pass."""
        layers = list(layers)
        self._health.watch(layers, out.routing, out.balance)
        self._terms.setdefault(number, Accumulator()).push(out.terms)
        # Counted here, once per token, whatever is recomputed in the backward pass.
        for layer, routing in zip(layers, out.routing, strict=True):
            self._counts[layer] += routing.counts

    def totals(self, assembly: Assembly) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Loss terms, expert counts and router health of the global batch."""
        parts = [total for accumulator in self._terms.values() if (total := accumulator.total()) is not None]
        terms, counts, pulls = torch.stack(parts).sum(0), self._counts, self._health.pulls
        # Every process that shares a row knows the whole micro-batch's balance factors.
        pulls[1] /= assembly.groups["sequence"].size
        for group in (assembly.groups["tokens"], assembly.groups["pp"]):
            terms, counts, pulls = (all_reduce(item, group) for item in (terms, counts, pulls))
        return dict(zip(TERMS, terms.unbind(), strict=True)), counts, health_ratios(pulls)
