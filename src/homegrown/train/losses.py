"""The training loss: next token, draft head, balance, hidden z-loss, indexer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from homegrown.config import ControllerConfig, LossConfig, ModelConfig
from homegrown.model import FullContext, History, Longcat, Routing, Trunk, shifted

TERMS = ("total", "lm", "mtp", "balance", "z", "indexer")
"""Names of the loss and its terms, in the order of `PartOutput.terms`."""


class Portion(Protocol):
    """Which positions of each row this process computes, and how sums over the row's other processes are formed.

    A whole row is the trivial portion; context and tensor parallelism bring others.
    """

    def take(self, x_BS: Tensor, fill: int) -> Tensor:
        """The columns of [B, S] that are computed here: [B, s]. Rows may be lengthened so that they divide evenly:
        columns beyond S hold `fill`."""

    def context(self, model: Longcat, tokens: Tensor, first: Tensor, index_loss: str) -> FullContext:
        """The context of this portion of a micro-batch.

        Args:
            model: the model.
            tokens: int64 [B, S + 1], the whole rows.
            first: int64 [B, S + 1], where each token's document begins, on the host.
            index_loss: as in `FullContext`.
        """

    def drafted(self, context: FullContext, tokens: Tensor, ahead: int) -> History:
        """The tokens `ahead` places beyond this portion's positions, among all tokens of their rows."""

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes that share a row; no gradient."""


class WholeRows:
    """Every position is computed here."""

    def take(self, x_BS: Tensor, fill: int) -> Tensor:
        """All columns."""
        return x_BS

    def context(self, model: Longcat, tokens: Tensor, first: Tensor, index_loss: str) -> FullContext:
        """All keys are in the batch."""
        return model.context(tokens[:, :-1], first[:, :-1], index_loss)

    def drafted(self, context: FullContext, tokens: Tensor, ahead: int) -> History:
        """The rows moved on by `ahead`."""
        length = tokens.shape[1] - 1
        following = shifted(tokens, ahead, context.config.eos_token_id)[:, :length]
        return History.after(tokens[:, :ahead], following, context.span.positions + ahead)

    def sum(self, values: Tensor) -> Tensor:
        """Nobody shares a row."""
        return values


@dataclass(frozen=True)
class Micro:
    """A micro-batch: whole rows, whatever part of them is computed here.

    Attributes:
        tokens: int64 [B, S + 1]; position i predicts tokens[:, i + 1].
        first: int64 [B, S + 1], where in its row each token's document begins, on the host.
    """

    tokens: Tensor
    first: Tensor


@dataclass(frozen=True)
class PartOutput:
    """What a part of the model made of a micro-batch.

    Attributes:
        hidden: [B, s, H] for the part that follows; `None` from the last part.
        loss: this process's share of the loss that arises here, already divided so that micro-batches, processes and
            parts add up to the global batch's.
        terms: float [len(TERMS)], the same by term, unweighted but for α of the balance loss; no gradient.
        routing: what every layer's router decided.
        balance: f of the balance loss for each layer's experts, [layers, E + Z]; no gradient.
    """

    hidden: Tensor | None
    loss: Tensor
    terms: Tensor
    routing: tuple[Routing, ...]
    balance: Tensor


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

    def trains(self, name: str) -> bool:
        """Whether the parameter of this name takes part in the step: the draft head and indexers often do not."""
        return (bool(self.draft_targets) or not name.startswith("mtp.")) and (
            self.index_loss != "off" or ".indexer." not in name
        )


def plan_losses(
    config: LossConfig,
    model: ModelConfig,
    target_experts: float,
    targets: Tensor,
    micro_batches: int,
    step: int,
    steps: int,
) -> LossPlan:
    """Settle weights and divisors for a step.

    Args:
        config, model: the run's.
        target_experts: K_e.
        targets: int64 [1 + draft steps], `count_targets` of the whole global batch.
        micro_batches: number of micro-batches in the global batch.
        step, steps: where in the run this is, from 1.
    """
    weight = draft_weight(config, step, steps)
    drafts = model.mtp.steps if model.mtp.layers and weight > 0 and step % config.mtp_every == 0 else 0
    # In the dense stage nothing else learns, so no step may go without the indexer's loss.
    due = config.indexer_stage == "dense" or step % max(1, config.indexer_every) == 0
    learns = model.sparse.topk > 0 and config.indexer_every > 0 and due
    lm, *ahead = (max(1, count) for count in targets.tolist())
    return LossPlan(
        config=config,
        target_experts=target_experts,
        mtp_weight=weight,
        index_loss=config.indexer_stage if learns else "off",
        targets=lm,
        draft_targets=tuple(ahead[:drafts]),
        micro_batches=micro_batches,
    )


def count_targets(first: Tensor, model: ModelConfig) -> Tensor:
    """Targets of the next-token loss and of each draft step: int64 [1 + draft steps], for first [B, S + 1]."""
    drafts = model.mtp.steps if model.mtp.layers else 0
    return torch.stack([same_document(first, ahead).sum() for ahead in range(1, drafts + 2)])


def draft_weight(config: LossConfig, step: int, steps: int) -> float:
    """Weight of the draft head's loss at a step, from 1; zero while it does not train."""
    progress = (step - 1) / max(1, steps - 1)
    return config.mtp + (config.mtp_final - config.mtp) * progress if progress >= config.mtp_start else 0.0


def same_document(first: Tensor, ahead: int) -> Tensor:
    """Whether the token `ahead` places further belongs to the same document: bool [B, S] for first [B, S + 1]."""
    length = first.shape[1] - 1
    return shifted(first, ahead, fill=-1)[:, :length] == first[:, :length]


def forward_part(
    model: Longcat, hidden: Tensor | None, micro: Micro, plan: LossPlan, portion: Portion, *, last: bool = True
) -> PartOutput:
    """Run a model, or a part of one, on a micro-batch and form the loss that arises in it.

    Args:
        model: with its embedding if `hidden` is `None`, with its head if `last`.
        hidden: [B, s, H] from the part before.
        micro: the rows.
        plan: weights and divisors.
        portion: which positions are computed here.
        last: whether the model ends here.
    """
    context = portion.context(model, micro.tokens, micro.first, plan.index_loss)
    if hidden is None:
        hidden = model.embed(portion.take(micro.tokens[:, :-1], 0), context)
    trunk = model.through(hidden, context)
    # Means over a micro-batch's positions count each micro-batch alike.
    positions = micro.tokens[:, 1:].numel() * plan.micro_batches
    factors = balance_factors(portion.sum(_counts(trunk.routing, trunk.hidden)), model.config, plan)
    balance = plan.config.balance * balance_loss(trunk.routing, factors, trunk.hidden) / positions
    index_losses = list(trunk.index_losses)
    lm = mtp = z = zero = torch.zeros_like(balance)
    if last:
        lm = _cross_entropy(model, trunk.output, micro, portion, 1) / plan.targets
        mtp, more = _drafts(model, trunk, micro, plan, portion, context)
        index_losses += more
        z = plan.config.z * hidden_z_loss(trunk.hidden, context.padding) / positions
    indexer = torch.stack(index_losses).sum() / positions if index_losses else zero
    if plan.index_loss == "dense":
        loss = plan.config.indexer * indexer
    else:
        loss = lm + plan.mtp_weight * mtp + balance + z + plan.config.indexer * indexer
    terms = torch.stack([item.detach().to(balance.dtype) for item in (loss, lm, mtp, balance, z, indexer)])
    return PartOutput(None if last else trunk.hidden, loss, terms, trunk.routing, factors)


def score_part(
    model: Longcat, hidden: Tensor | None, micro: Micro, target: Tensor, portion: Portion, *, last: bool = True
) -> PartOutput:
    """Run a model, or a part of one, and sum the cross-entropy of given targets: `loss` of the result.

    Args:
        model, hidden, micro, portion, last: as for `forward_part`.
        target: int64 [B, S], −1 where nothing is scored.
    """
    context = portion.context(model, micro.tokens, micro.first, "off")
    if hidden is None:
        hidden = model.embed(portion.take(micro.tokens[:, :-1], 0), context)
    trunk = model.through(hidden, context)
    loss = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    if last:
        loss = model.lm_head.cross_entropy(trunk.output.flatten(0, 1), portion.take(target, -1).flatten())
    return PartOutput(None if last else trunk.hidden, loss, loss[None], trunk.routing, loss)


def _drafts(
    model: Longcat, trunk: Trunk, micro: Micro, plan: LossPlan, portion: Portion, context: FullContext
) -> tuple[Tensor, list[Tensor]]:
    """Mean over draft steps of their cross-entropy, and the indexer losses of the draft block."""
    total = torch.zeros((), dtype=torch.promote_types(trunk.output.dtype, torch.float32), device=trunk.output.device)
    index_losses: list[Tensor] = []
    chained, selection = model.draft_start(trunk), None
    for ahead, targets in enumerate(plan.draft_targets, start=1):
        history = portion.drafted(context, micro.tokens, ahead)
        # At a document's last positions there is no next token to draft from: they teach the indexer nothing.
        drafting = context.counting(portion.take(same_document(micro.first, ahead).to(micro.tokens.device), 0))
        draft = model.draft(history.tokens[:, history.new], chained, drafting, selection, history)
        chained, selection = draft.chained, draft.selection
        index_losses.extend(draft.index_losses)
        total = total + _cross_entropy(model, draft.output, micro, portion, ahead + 1) / targets
    return total / max(1, len(plan.draft_targets)), index_losses


def _cross_entropy(model: Longcat, output: Tensor, micro: Micro, portion: Portion, ahead: int) -> Tensor:
    """Summed cross-entropy of the tokens `ahead` places further, within the same document."""
    length = micro.tokens.shape[1] - 1
    counts = same_document(micro.first, ahead).to(output.device)
    target = torch.where(counts, shifted(micro.tokens, ahead, 0)[:, :length], -1)
    return model.lm_head.cross_entropy(output.flatten(0, 1), portion.take(target, -1).flatten())


def hidden_z_loss(hidden_BSH: Tensor, padding_BS: Tensor | None = None) -> Tensor:
    """Sum over tokens of (log Σ_i exp |z_i|)² on the last hidden state z (arXiv 2509.01322 eq. 10)."""
    wide = torch.promote_types(hidden_BSH.dtype, torch.float32)
    each = hidden_BSH.to(wide).abs().logsumexp(-1).square()
    return (each if padding_BS is None else each.masked_fill(padding_BS, 0.0)).sum()


def balance_loss(routing: tuple[Routing, ...], factors: Tensor, like: Tensor) -> Tensor:
    """Σ over layers, experts j and the tokens here of f_j p_j (arXiv 2509.01322 section 2), without α and divisor."""
    if not routing:
        return torch.zeros((), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    return torch.stack([(factor * layer.prob_sum).sum() for factor, layer in zip(factors, routing, strict=True)]).sum()


def balance_factors(counts: Tensor, model: ModelConfig, plan: LossPlan) -> Tensor:
    """f of each expert's group: one at balance.

    Routed experts form D groups, f_j = D / (K_e T) · slots of group j; all zero experts form one more,
    f = slots / ((K − K_e) T). Every chosen slot counts.

    Args:
        counts: int64 [layers, E + Z] slots of one micro-batch; each of its T tokens has K.

    Returns:
        [layers, E + Z], float32.
    """
    groups, routed = plan.config.balance_groups, model.n_routed_experts
    slots = counts.to(torch.float32)
    tokens = counts.sum(1, keepdim=True).to(torch.float32) / model.moe_topk
    by_group = slots[:, :routed].unflatten(1, (groups, -1)).sum(2) * groups / (plan.target_experts * tokens)
    factors = by_group.repeat_interleave(routed // groups, dim=1)
    spare = model.moe_topk - plan.target_experts
    if not model.zero_expert_num:
        return factors
    zero = slots[:, routed:].sum(1, keepdim=True) / (spare * tokens) if spare > 0 else torch.zeros_like(tokens)
    return torch.cat((factors, zero.expand(-1, model.zero_expert_num)), dim=1)


def _counts(routing: tuple[Routing, ...], like: Tensor) -> Tensor:
    """Slots given to each expert in each layer: int64 [layers, E + Z]."""
    if routing:
        return torch.stack([layer.counts for layer in routing])
    return torch.zeros(0, 1, dtype=torch.int64, device=like.device)


def expected_experts(controller: ControllerConfig, model: ModelConfig) -> float:
    """K_e: the configured target, or the share that uniform routing would give."""
    if controller.target_experts:
        return controller.target_experts
    return model.moe_topk * model.n_routed_experts / (model.n_routed_experts + model.zero_expert_num)
