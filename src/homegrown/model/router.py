"""Routing over real and zero-computation experts, and the mixture itself (arXiv 2509.01322 section 2)."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

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
        prob_sum: [E + Z] sum over tokens of the router's probabilities, in the graph of the balance loss.
        counts: int64 [E + Z] slots given to each expert, exact.
    """

    index_NK: Tensor
    gate_NK: Tensor
    prob_sum: Tensor
    counts: Tensor


class Router(nn.Module):
    """p = softmax(W_r x) over all E + Z experts; the top K of p + b are chosen, with weights γ p."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        choices = config.n_routed_experts + config.zero_expert_num
        self.classifier = Linear(config.hidden_size, choices, bias=config.router_bias)
        self.register_buffer("e_score_correction_bias", torch.zeros(choices, dtype=torch.float32))
        self.e_score_correction_bias: Tensor

    def forward(self, x_NH: Tensor, padding_N: Tensor | None = None) -> Routing:
        """Route tokens in float32 at least, whatever the model's dtype.

        Padding goes to zero experts, where it costs nothing, and is not counted.
        """
        wide = torch.promote_types(x_NH.dtype, torch.float32)
        bias = self.classifier.bias
        x = ops.recomputable(torch.Tensor.to, x_NH, wide)
        logits = ops.linear(x, self.classifier.weight.to(wide), None if bias is None else bias.to(wide))
        prob = logits.softmax(-1)
        index = (prob.detach() + self.e_score_correction_bias).topk(self.config.moe_topk, dim=-1).indices
        choices, counted = prob.shape[1], index
        if padding_N is not None:
            prob = prob.masked_fill(padding_N[:, None], 0.0)
            counted = index.masked_fill(padding_N[:, None], choices)
            index = index.masked_fill(padding_N[:, None], choices - 1) if self.config.zero_expert_num else index
        gate = prob.gather(1, index)
        if self.config.norm_topk_prob:
            gate = gate / gate.sum(-1, keepdim=True).clamp(min=torch.finfo(wide).tiny)
        counts = torch.bincount(counted.flatten(), minlength=choices + 1)[:choices]
        return Routing(index, gate * self._scale(index), prob.sum(0), counts)

    def _scale(self, index: Tensor) -> Tensor | float:
        gamma = self.config.routed_scaling_factor
        if self.config.scale_zero_experts:
            return gamma
        return torch.where(index < self.config.n_routed_experts, gamma, 1.0)


class Experts(nn.Module):
    """The routed experts, their weights stacked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        number, width, hidden = config.n_routed_experts, config.expert_ffn_hidden_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(number, 2, width, hidden))
        self.down_proj = nn.Parameter(torch.empty(number, hidden, width))

    def forward(self, x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor) -> Tensor:
        """Σ over each token's choices among them of gate · output, [N, H]."""
        return ops.experts(x_NH, index_NK, gate_NK, self.gate_up_proj, self.down_proj)


class Dispatcher(Protocol):
    """How tokens reach the real experts they chose, in three phases, so that their journey can overlap with the dense
    path between them. The local one stays here; expert parallelism brings one that sends tokens to where their experts
    live."""

    def send(self, x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor) -> Any:
        """Send tokens off; numbers from E up are no real experts and stay."""

    def compute(self, sent: Any, experts: Experts) -> Any:
        """Run the experts that live here on the tokens that arrived, and send the results back."""

    def receive(self, computed: Any) -> Tensor:
        """Σ over each token's real experts of gate · output, [N, H]."""


class LocalDispatcher:
    """All experts are here."""

    def send(self, x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nothing travels."""
        return x_NH, index_NK, gate_NK

    def compute(self, sent: tuple[Tensor, Tensor, Tensor], experts: Experts) -> Tensor:
        """The experts and the sum over choices at once."""
        return experts(*sent)

    def receive(self, computed: Tensor) -> Tensor:
        """It is there."""
        return computed


class Underway(NamedTuple):
    """A mixture between its phases: what the dispatcher holds, the zero experts' share, the shape of the output."""

    held: Any
    zero: Tensor | None
    shape: torch.Size


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
        self.dispatcher: Dispatcher = LocalDispatcher()

    def send(self, x_BSH: Tensor, padding_BS: Tensor | None = None) -> tuple[Underway, Routing]:
        """Route the B · S tokens of [B, S, H] and send them to their experts."""
        x_NH = x_BSH.flatten(0, 1)
        routing = self.router(x_NH, None if padding_BS is None else padding_BS.flatten())
        sent = self.dispatcher.send(x_NH, routing.index_NK, routing.gate_NK)
        share = None
        if self.identity:
            zero = torch.where(routing.index_NK >= self.n_routed, routing.gate_NK, 0.0).sum(-1, keepdim=True)
            share = zero.to(x_NH.dtype) * x_NH
        return Underway(sent, share, x_BSH.shape), routing

    def compute(self, underway: Underway) -> Underway:
        """Run the real experts."""
        return underway._replace(held=self.dispatcher.compute(underway.held, self.experts))

    def receive(self, underway: Underway) -> Tensor:
        """The mixture's output, [B, S, H]."""
        out = self.dispatcher.receive(underway.held)
        return (out if underway.zero is None else out + underway.zero).view(underway.shape)
