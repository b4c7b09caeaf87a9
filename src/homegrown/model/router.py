"""Routing over real and zero-computation experts, and the mixture itself (arXiv 2509.01322 section 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from homegrown import ops
from homegrown.config import ModelConfig
from homegrown.model.layers import Linear


class Routing(NamedTuple):
    """What a router decided for N tokens, for losses, control and metrics.

    Attributes:
        index_NK: int64 chosen experts; numbers from n_routed_experts up are zero experts.
        gate_NK: their weights γ p, in the graph of the task losses.
        mean_prob: [E + Z] batch mean of the router's probabilities, in the graph of the balance loss.
    """

    index_NK: Tensor
    gate_NK: Tensor
    mean_prob: Tensor


class Router(nn.Module):
    """p = softmax(W_r x) over all E + Z experts; the top K of p + b are chosen, with weights γ p."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        choices = config.n_routed_experts + config.zero_expert_num
        self.classifier = Linear(config.hidden_size, choices, bias=config.router_bias)
        self.register_buffer("e_score_correction_bias", torch.zeros(choices, dtype=torch.float32))
        self.e_score_correction_bias: Tensor

    def forward(self, x_NH: Tensor) -> Routing:
        """Route tokens in float32 at least, whatever the model's dtype."""
        wide = torch.promote_types(x_NH.dtype, torch.float32)
        bias = self.classifier.bias
        logits = ops.linear(x_NH.to(wide), self.classifier.weight.to(wide), None if bias is None else bias.to(wide))
        prob = logits.softmax(-1)
        index = (prob.detach() + self.e_score_correction_bias).topk(self.config.moe_topk, dim=-1).indices
        gate = prob.gather(1, index)
        if self.config.norm_topk_prob:
            gate = gate / gate.sum(-1, keepdim=True)
        return Routing(index, gate * self._scale(index), prob.mean(0))

    def _scale(self, index: Tensor) -> Tensor | float:
        gamma = self.config.routed_scaling_factor
        if self.config.scale_zero_experts:
            return gamma
        return torch.where(index < self.config.n_routed_experts, gamma, 1.0)


class Experts(nn.Module):
    """The routed experts' weights, stacked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        number, width, hidden = config.n_routed_experts, config.expert_ffn_hidden_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(number, 2, width, hidden))
        self.down_proj = nn.Parameter(torch.empty(number, hidden, width))


Dispatcher = Callable[[Tensor, Tensor, Tensor, Experts], Tensor]
"""(x [N, H], index [N, K], gate [N, K], experts) -> Σ of the chosen real experts' weighted outputs [N, H]. The local
one computes them here; expert parallelism brings one that sends tokens to where their experts live."""


class MixtureOfExperts(nn.Module):
    """MoE(x) = Σ_{i<E} g_i FFN_i(x) + (Σ_{i≥E} g_i) x.

    Zero experts have no weights and are never dispatched: their share is the token times its summed gates.

    Attributes:
        dispatcher: how tokens reach real experts; replaced from outside under expert parallelism.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_routed = config.n_routed_experts
        self.identity = config.zero_expert_num > 0 and config.zero_expert_type == "identity"
        self.router = Router(config)
        self.experts = Experts(config)
        self.dispatcher: Dispatcher = _local_dispatch

    def forward(self, x_BSH: Tensor) -> tuple[Tensor, Routing]:
        """[B, S, H] -> the mixture's output, same shape, and the routing of the B · S tokens."""
        x_NH = x_BSH.flatten(0, 1)
        routing = self.router(x_NH)
        out = self.dispatcher(x_NH, routing.index_NK, routing.gate_NK, self.experts)
        if self.identity:
            zero = torch.where(routing.index_NK >= self.n_routed, routing.gate_NK, 0.0).sum(-1, keepdim=True)
            out = out + zero.to(x_NH.dtype) * x_NH
        return out.view(x_BSH.shape), routing


def _local_dispatch(x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor, experts: Experts) -> Tensor:
    return ops.experts(x_NH, index_NK, gate_NK, experts.gate_up_proj, experts.down_proj)
