"""The training loss: next token, draft head, balance, hidden z-loss, indexer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown import ops
from homegrown.config import ControllerConfig, LossConfig, ModelConfig
from homegrown.model import Longcat, Routing, shifted


@dataclass(frozen=True)
class Losses:
    """The terms of one micro-batch, each already divided so that a global batch's micro-batches add up.

    Attributes:
        total: weighted sum, to be differentiated.
        lm: next-token cross-entropy, nats a token.
        mtp: mean over draft steps of their cross-entropy.
        balance: α Σ f P, summed over layers.
        z: hidden z-loss.
        indexer: sum of the indexers' KL.
        routing: what every layer's router decided.
    """

    total: Tensor
    lm: Tensor
    mtp: Tensor
    balance: Tensor
    z: Tensor
    indexer: Tensor
    routing: tuple[Routing, ...]


@dataclass(frozen=True)
class LossPlan:
    """What a step's loss is made of; the same for all its micro-batches.

    Attributes:
        config: the weights.
        target_experts: K_e of the balance loss.
        mtp_weight: the draft head's weight at this step.
        index_loss: `off`, `sparse` or `dense`.
        targets: next-token targets in the global batch.
        draft_targets: targets of each draft step in the global batch.
        micro_batches: how many micro-batches make the global batch.
    """

    config: LossConfig
    target_experts: float
    mtp_weight: float
    index_loss: str
    targets: int
    draft_targets: tuple[int, ...]
    micro_batches: int


def plan_losses(
    config: LossConfig,
    model: ModelConfig,
    target_experts: float,
    first: Tensor,
    micro_batches: int,
    step: int,
    steps: int,
) -> LossPlan:
    """Settle weights and divisors for a step.

    Args:
        config, model: the run's.
        target_experts: K_e.
        first: int64 [B, S + 1] document starts of the whole global batch, on the host.
        micro_batches: number of micro-batches.
        step, steps: where in the run this is, from 1.
    """
    weight = draft_weight(config, step, steps)
    drafts = model.mtp.steps if model.mtp.layers and weight > 0 and step % config.mtp_every == 0 else 0
    # In the dense stage nothing else learns, so no step may go without the indexer's loss.
    due = config.indexer_stage == "dense" or step % max(1, config.indexer_every) == 0
    learns = model.sparse.topk > 0 and config.indexer_every > 0 and due
    return LossPlan(
        config=config,
        target_experts=target_experts,
        mtp_weight=weight,
        index_loss=config.indexer_stage if learns else "off",
        targets=max(1, int(same_document(first, 1).sum())),
        draft_targets=tuple(max(1, int(same_document(first, ahead + 2).sum())) for ahead in range(drafts)),
        micro_batches=micro_batches,
    )


def draft_weight(config: LossConfig, step: int, steps: int) -> float:
    """Weight of the draft head's loss at a step, from 1; zero while it does not train."""
    progress = (step - 1) / max(1, steps - 1)
    return config.mtp + (config.mtp_final - config.mtp) * progress if progress >= config.mtp_start else 0.0


def same_document(first: Tensor, ahead: int) -> Tensor:
    """Whether the token `ahead` places further belongs to the same document: bool [B, S] for first [B, S + 1]."""
    length = first.shape[1] - 1
    return shifted(first, ahead, fill=-1)[:, :length] == first[:, :length]


def compute_losses(model: Longcat, tokens: Tensor, first: Tensor, plan: LossPlan) -> Losses:
    """Run the model on a micro-batch and form its loss.

    Args:
        model: the model.
        tokens: int64 [B, S + 1]; position i predicts tokens[:, i + 1].
        first: int64 [B, S + 1], where in its row each token's document begins, on the host.
        plan: weights and divisors.
    """
    inputs = tokens[:, :-1]
    context = model.context(inputs, first[:, :-1], plan.index_loss)
    trunk = model.trunk(inputs, context)
    lm = _cross_entropy(model, trunk.output, tokens, first, 1) / plan.targets
    index_losses = list(trunk.index_losses)

    mtp = torch.zeros_like(lm)
    chained, selection = model.draft_start(trunk), None
    for ahead, targets in enumerate(plan.draft_targets):
        following = shifted(tokens, ahead + 1, model.config.eos_token_id)[:, : inputs.shape[1]]
        # At a document's last positions there is no next token to draft from: they teach the indexer nothing.
        drafting = context.counting(same_document(first, ahead + 1).to(tokens.device))
        draft = model.draft(following, chained, drafting, selection, earlier=tokens[:, : ahead + 1])
        chained, selection = draft.chained, draft.selection
        index_losses.extend(draft.index_losses)
        mtp = mtp + _cross_entropy(model, draft.output, tokens, first, ahead + 2) / targets
    mtp = mtp / max(1, len(plan.draft_targets))

    share = 1 / plan.micro_batches
    balance = share * plan.config.balance * balance_loss(trunk.routing, model.config, plan)
    z = share * plan.config.z * hidden_z_loss(trunk.hidden)
    indexer = share * torch.stack(index_losses).sum() if index_losses else torch.zeros_like(lm)
    if plan.index_loss == "dense":
        total = plan.config.indexer * indexer
    else:
        total = lm + plan.mtp_weight * mtp + balance + z + plan.config.indexer * indexer
    lm, mtp, balance, z, indexer = (term.detach() for term in (lm, mtp, balance, z, indexer))
    return Losses(total, lm, mtp, balance, z, indexer, trunk.routing)


def _cross_entropy(model: Longcat, output: Tensor, tokens: Tensor, first: Tensor, ahead: int) -> Tensor:
    """Summed cross-entropy of the tokens `ahead` places further, within the same document."""
    length = tokens.shape[1] - 1
    counts = same_document(first, ahead).to(tokens.device)
    target = torch.where(counts, shifted(tokens, ahead, 0)[:, :length], -1)
    return ops.linear_cross_entropy(output.flatten(0, 1), model.lm_head.weight, target.flatten())


def hidden_z_loss(hidden_BSH: Tensor) -> Tensor:
    """Mean over tokens of (log Σ_i exp |z_i|)² on the last hidden state z (arXiv 2509.01322 eq. 10)."""
    wide = torch.promote_types(hidden_BSH.dtype, torch.float32)
    return hidden_BSH.to(wide).abs().logsumexp(-1).square().mean()


def balance_loss(routing: tuple[Routing, ...], model: ModelConfig, plan: LossPlan) -> Tensor:
    """Σ over layers of Σ_j f_j P_j over groups of experts (arXiv 2509.01322 section 2), without α."""
    terms = [(balance_factors(layer.index_NK, model, plan) * layer.mean_prob).sum() for layer in routing]
    return torch.stack(terms).sum()


def balance_factors(index_NK: Tensor, model: ModelConfig, plan: LossPlan) -> Tensor:
    """f of each expert's group, [E + Z]: one at balance, no gradient.

    Routed experts form D groups, f_j = D / (K_e T) · slots of group j; all zero experts form one more,
    f = slots / ((K − K_e) T). Every chosen slot counts.
    """
    groups, routed = plan.config.balance_groups, model.n_routed_experts
    counts = expert_counts(index_NK, model).to(torch.float32)
    tokens = index_NK.shape[0]
    by_group = counts[:routed].view(groups, -1).sum(1) * (groups / (plan.target_experts * tokens))
    factors = by_group.repeat_interleave(routed // groups)
    spare = model.moe_topk - plan.target_experts
    if not model.zero_expert_num:
        return factors
    zero = counts[routed:].sum() / (spare * tokens) if spare > 0 else torch.zeros_like(counts[0])
    return torch.cat((factors, zero.expand(model.zero_expert_num)))


def expert_counts(index_NK: Tensor, model: ModelConfig) -> Tensor:
    """Slots given to each expert: int64 [E + Z], exact."""
    return torch.bincount(index_NK.flatten(), minlength=model.n_routed_experts + model.zero_expert_num)


def expected_experts(controller: ControllerConfig, model: ModelConfig) -> float:
    """K_e: the configured target, or the share that uniform routing would give."""
    if controller.target_experts:
        return controller.target_experts
    return model.moe_topk * model.n_routed_experts / (model.n_routed_experts + model.zero_expert_num)
