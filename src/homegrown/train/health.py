"""Router health: how strongly the balance loss pulls compared with the task (arXiv 2509.01322 section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.model import Routing
from homegrown.train.losses import LossPlan


class HealthMonitor:
    """Gathers R_g = ‖α ∇_P L_balance‖ / ‖∇_P L_task‖ per layer, P being the mean probability of each expert.

    Moving P_i moves every token's p_i alike, so ∇_P L_task = Σ_t ∂L/∂p_t; it is read from the gradient that reaches
    the gates in the ordinary backward pass. Values of R_g under 0.1 leave the task in charge.
    """

    def __init__(self, model: ModelConfig, plan: LossPlan, device: torch.device) -> None:
        self._plan = plan
        shape = (model.num_layers, model.n_routed_experts + model.zero_expert_num)
        self._task = torch.zeros(shape, device=device)
        self._balance = torch.zeros(shape, device=device)
        self._gate_scale = torch.full(shape[1:], model.routed_scaling_factor, device=device)
        if not model.scale_zero_experts:
            self._gate_scale[model.n_routed_experts :] = 1.0

    def watch(self, layers: Sequence[int], routing: Sequence[Routing], factors: Tensor) -> None:
        """Listen to the gates of a micro-batch, before its backward pass; frozen routers feel no pull and are 0.

        Args:
            layers: numbers of the layers that routed.
            routing: what they decided.
            factors: [layers, E + Z], f of their balance losses.
        """
        for layer, decided, factor in zip(layers, routing, factors, strict=True):
            if not decided.gate_NK.requires_grad:
                continue
            self._balance[layer] += factor * (self._plan.config.balance / self._plan.micro_batches)
            decided.gate_NK.register_hook(
                lambda grad, layer=layer, index=decided.index_NK: self._add(layer, index, grad)
            )

    @property
    def pulls(self) -> Tensor:
        """Both gradients as gathered here, [2, layers, E + Z]: to be added up over processes."""
        return torch.stack((self._task * self._gate_scale, self._balance))

    def _add(self, layer: int, index: Tensor, grad: Tensor) -> None:
        self._task[layer].index_add_(0, index.flatten(), grad.flatten().to(self._task.dtype))


def health_ratios(pulls: Tensor) -> Tensor:
    """R_g of each layer, [layers], from `HealthMonitor.pulls` of all processes."""
    task, balance = pulls.norm(dim=2)
    return balance / task.clamp(min=torch.finfo(task.dtype).tiny)


def router_similarity(weight: Tensor) -> Tensor:
    """Mean pairwise cosine similarity of a router's rows; near one, experts are indistinguishable to it."""
    rows = torch.nn.functional.normalize(weight.detach().float(), dim=1)
    count = rows.shape[0]
    return ((rows @ rows.T).sum() - count) / (count * (count - 1))
