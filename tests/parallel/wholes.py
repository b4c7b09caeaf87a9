"""Models that are spread over ranks against the same model in one process: batches, shards, gradients put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from homegrown.config import LossConfig, ModelConfig
from homegrown.model import Longcat
from homegrown.parallel.collectives import all_reduce
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.tensor import shard_tensors
from homegrown.train.losses import LossPlan, Micro, Portion, WholeRows, count_targets, forward_part, plan_losses
from tests.train import tiny

WEIGHTS: dict[str, Any] = {
    "mtp": 0.3, "mtp_final": 0.3, "balance": 0.02, "balance_groups": 2, "z": 1e-3, "indexer": 0.7,
}  # fmt: skip

Totals = tuple[np.ndarray, dict[str, np.ndarray]]
"""Terms of the loss and every parameter's gradient, of a global batch; arrays, which travel between processes."""


@dataclass(frozen=True)
class Case:
    """A global batch of two micro-batches of two rows, and the model that it goes through.

    Attributes:
        starts: where documents begin, in each of the four rows.
        ends: further end-of-sequence tokens, inside documents.
    """

    length: int
    starts: tuple[tuple[int, ...], ...] = ((), (), (), ())
    ends: tuple[int, ...] = ()
    recompute: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return tiny.model_config(num_attention_heads=4, **self.model)

    def micro_batches(self) -> list[Micro]:
        generator = torch.Generator().manual_seed(self.length)
        config = self.config
        tokens = torch.randint(2, config.vocab_size, (4, self.length + 1), generator=generator)
        first = torch.zeros_like(tokens)
        for row, starts in enumerate(self.starts):
            for start in starts:
                first[row, start:] = start
                tokens[row, start - 1] = config.eos_token_id
            tokens[row, list(self.ends)] = config.eos_token_id
        return [Micro(tokens[rows], first[rows]) for rows in (slice(0, 2), slice(2, 4))]

    def plan(self, micros: list[Micro]) -> LossPlan:
        config = self.config
        targets = count_targets(torch.cat([micro.first for micro in micros]), config)
        return plan_losses(LossConfig(**WEIGHTS | self.losses), config, 2.5, targets, len(micros), step=1, steps=10)

    def whole_model(self) -> Longcat:
        """Weights are as a run would begin, but for norms, biases and routers, which are moved away from their start,
        where errors could hide."""
        model = Longcat(self.config)
        model.init_weights(3)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += (0.3 if parameter.ndim == 1 or "router" in name or "indexer" in name else 0.0) * noise
            for router in model.routers():
                bias = router.e_score_correction_bias
                bias += 0.05 * torch.randn(bias.shape, generator=generator)
        model.recompute = self.recompute
        return model.double()


def one_process(case: Case) -> Totals:
    """What one process makes of a case."""
    model, micros = case.whole_model(), case.micro_batches()
    terms = run(model, micros, case.plan(micros), WholeRows())
    return terms.numpy(), {name: gradient(parameter).numpy() for name, parameter in model.named_parameters()}


def spread(case: Case, groups: Groups, portion: Portion) -> Totals:
    """The same from all ranks of a world together, experts and n-gram rows whole on each; every rank gets it."""
    layout, rank = groups.layout, groups.rank
    model, micros = case.whole_model(), case.micro_batches()
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    cut(model, layout, rank)
    shard_tensors(model, groups["tp"])
    terms = run(model, micros[layout.place(rank).dp :: layout.dp], case.plan(micros), portion)
    grads = {}
    for name, parameter in model.named_parameters():
        shard = layout.shard(name, shapes[name], rank, model.config)
        assert shard is not None
        whole = torch.zeros(shapes[name], dtype=torch.float64)
        whole.narrow(shard.dim, shard.start, shard.stop - shard.start).copy_(gradient(parameter))
        grads[name] = whole
    flat = all_reduce(torch.cat([terms, *(grad.flatten() for grad in grads.values())]), groups["world"])
    terms, *parts = flat.split([len(terms), *(grad.numel() for grad in grads.values())])
    return terms.numpy(), {name: part.view(shapes[name]).numpy() for name, part in zip(grads, parts, strict=True)}


def cut(model: Longcat, layout: Layout, rank: int) -> None:
    """Keep what a rank holds of every parameter."""
    for name, parameter in model.named_parameters():
        shard = layout.shard(name, tuple(parameter.shape), rank, model.config)
        assert shard is not None
        parameter.data = parameter.data.narrow(shard.dim, shard.start, shard.stop - shard.start).clone()


def run(model: Longcat, micros: list[Micro], plan: LossPlan, portion: Portion) -> Tensor:
    """Forward and backward of micro-batches; the sum of their terms."""
    outs = []
    for micro in micros:
        out = forward_part(model, None, micro, plan, portion)
        out.loss.backward()
        outs.append(out.terms)
    return torch.stack(outs).sum(0)


def gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def check_totals(found: Totals, expected: Totals) -> None:
    """Rounding alone: float64 carries 1e-16 a step; a gradient's numbers are compared on the scale of its largest."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12, atol=1e-12)
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        np.testing.assert_allclose(found[1][name], grad, rtol=0, atol=1e-12 * np.abs(grad).max(), err_msg=name)
