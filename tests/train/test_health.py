"""Router health against gradients taken by moving the probabilities themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown.model import Longcat, Routing
from homegrown.model.router import Router
from homegrown.train.health import router_similarity
from homegrown.train.losses import Micro, WholeRows, count_targets, forward_part, plan_losses
from homegrown.train.run import Workbench

from . import tiny


def shifted_router(router: Router, gates: Tensor, mean: Tensor) -> Any:
    """The router's forward pass with every token's probabilities moved by `gates` on their way to the experts, and
    their batch mean by `mean` on its way to the balance loss. Both are zero; only their gradients matter."""
    config = router.config

    def forward(x: Tensor, padding: Tensor | None = None) -> Routing:
        prob = (x @ router.classifier.weight.T).softmax(-1)
        index = (prob.detach() + router.e_score_correction_bias).topk(config.moe_topk, dim=-1).indices
        scale = torch.full((config.n_routed_experts + config.zero_expert_num,), config.routed_scaling_factor)
        if not config.scale_zero_experts:
            scale[config.n_routed_experts :] = 1.0
        counts = torch.bincount(index.flatten(), minlength=prob.shape[1])
        return Routing(index, ((prob + gates) * scale).gather(1, index), (prob + mean).sum(0), counts)

    return forward


@pytest.mark.parametrize("changes", [{}, {"scale_zero_experts": False}, {"zero_expert_type": "drop"}])
def test_health_is_the_ratio_of_two_gradients(dataset, monkeypatch, changes):
    """R_g = ‖∇_P α L_balance‖ / ‖∇_P L‖ per layer (arXiv 2509.01322 section 3.2), over two micro-batches."""
    config = tiny.replaced(tiny.train_config(dataset.path), model=tiny.model_config(**changes), loss__balance=0.02)
    bench = Workbench(config)
    batch = bench.batches.batch(0)
    found = bench.stepper.step(1, batch).health

    model = Longcat(config.model)
    model.init_weights(config.seed)
    choices = config.model.n_routed_experts + config.model.zero_expert_num
    moves = [[torch.zeros(choices, requires_grad=True) for _ in range(2)] for _ in model.routers()]
    for router, (gates, mean) in zip(model.routers(), moves, strict=True):
        monkeypatch.setattr(router, "forward", shifted_router(router, gates, mean))
    tokens, first = torch.from_numpy(batch.tokens), torch.from_numpy(batch.first)
    targets = count_targets(first, config.model)
    plan = plan_losses(config.loss, config.model, bench.stepper.controller.target, targets, 2, 1, config.steps)
    for rows in (slice(0, 2), slice(2, 4)):
        forward_part(model, None, Micro(tokens[rows], first[rows]), plan, WholeRows()).loss.backward()
    expected = [(mean.grad.norm() / gates.grad.norm()).item() for gates, mean in moves]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0


def test_health_grows_with_the_balance_loss(dataset):
    """Twice α is twice the pull; the task's own pull stays."""
    values = []
    for balance in (1e-3, 2e-3):
        bench = Workbench(tiny.replaced(tiny.train_config(dataset.path), loss__balance=balance))
        values.append(bench.stepper.step(1, bench.batches.batch(0)).health)
    # The balance loss of the second layer also reaches the first one's gates, at a thousandth of the task's gradient.
    torch.testing.assert_close(values[1], 2 * values[0], rtol=5e-3, atol=0)


def test_similarity_of_router_rows():
    assert router_similarity(torch.eye(4)).item() == pytest.approx(0, abs=1e-7)
    assert router_similarity(torch.tensor([[1.0, 2.0], [2.0, 4.0], [9.0, 18.0]])).item() == pytest.approx(1)
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    pairs = [torch.cosine_similarity(weight[i], weight[j], dim=0).item() for i in range(5) for j in range(5) if i != j]
    assert router_similarity(weight).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
