"""Every term of the training loss and every gradient, in float64, against the slow reference."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown.config import LossConfig, ModelConfig
from homegrown.model import Longcat
from homegrown.train.losses import (
    TERMS,
    LossPlan,
    Micro,
    WholeRows,
    balance_factors,
    balance_loss,
    count_targets,
    forward_part,
    plan_losses,
)
from tests import reference
from tests.model.small import batch, small
from tests.model.twin import built, tiny

TARGET = 2.5
WEIGHTS = LossConfig(mtp=0.3, mtp_final=0.3, balance=0.02, balance_groups=2, z=1e-3, indexer=0.7)


def planned(config: ModelConfig, first: Tensor, micro_batches: int = 1, **changes: Any) -> LossPlan:
    targets = count_targets(first, config)
    return plan_losses(replace(WEIGHTS, **changes), config, TARGET, targets, micro_batches, step=1, steps=10)


def compute_losses(model: Longcat, tokens: Tensor, first: Tensor, plan: LossPlan) -> SimpleNamespace:
    out = forward_part(model, None, Micro(tokens, first), plan, WholeRows())
    return SimpleNamespace(**{**dict(zip(TERMS, out.terms, strict=True)), "total": out.loss})


def real(
    config: ModelConfig, weights: reference.Weights, tokens: Tensor, first: Tensor, **changes: Any
) -> tuple[Longcat, SimpleNamespace]:
    model = built(config, weights)
    return model, compute_losses(model, tokens, first, planned(config, first, **changes))


def gradients(model: Longcat) -> dict[str, Tensor]:
    """Gradients that are not exactly absent or zero everywhere."""
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None and p.grad.count_nonzero() > 0}


def expected_losses(
    config: ModelConfig, weights: reference.Weights, tokens: Tensor, first: Tensor, dense: bool = False
) -> dict[str, Tensor]:
    """Unweighted terms of the loss of tokens [B, S + 1]."""
    whole = reference.run(weights, config, tokens, first, dense, mtp=config.mtp.layers > 0)
    inputs = reference.run(weights, config, tokens[:, :-1], first[:, :-1], dense)
    queries = tokens[:, :-1].numel()
    terms = {
        "lm": reference.lm_loss(whole),
        "mtp": reference.mtp_loss(whole, config.mtp.steps),
        "z": reference.z_loss(inputs),
        "balance": torch.stack(
            [
                reference.balance_loss(config, [document.routings[layer] for document in inputs], 2, TARGET)
                for layer in range(config.num_layers)
            ]
        ).sum(),
    }
    if config.sparse.topk:
        groups = [group for document in inputs for group in document.groups]
        terms["indexer"] = torch.stack([reference.indexer_kl(group).sum() for group in groups]).sum() / queries
    return terms


def weighed(terms: dict[str, Tensor]) -> Tensor:
    factors = {"lm": 1.0, "mtp": WEIGHTS.mtp, "z": WEIGHTS.z, "balance": WEIGHTS.balance, "indexer": WEIGHTS.indexer}
    return torch.stack([factors[name] * value for name, value in terms.items()]).sum()


CASES: dict[str, ModelConfig] = {
    "longcat-2.0": small(mtp={"indexer": False}),
    "flash": tiny(mtp=small(mtp={"steps": 1}).mtp),
    "one owner": small(mtp={"layers": 0}, sparse={"share": 4}),
    "owner every sublayer, layer norm, half-split": small(
        mtp={"layers": 0}, sparse={"share": 1, "k_norm": "layer", "rope_interleaved": False, "scale_scores": False}
    ),
    "short rows": small(mtp={"layers": 0}, sparse={"topk": 100}),
    "gates renormalised, router bias": small(mtp={"indexer": False}, norm_topk_prob=True, router_bias=True),
    "zero experts unscaled": small(mtp={"indexer": False}, scale_zero_experts=False),
    "zero experts drop, residual n-grams": small(
        mtp={"indexer": False}, zero_expert_type="drop", ngram={"fusion": "residual"}
    ),
    "no zero experts": small(mtp={"layers": 0}, zero_expert_num=0),
    "draft chains before the norm": small(mtp={"indexer": False, "chain": "pre_norm"}),
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("packed", [False, True], ids=["whole rows", "packed"])
@pytest.mark.parametrize("name", CASES)
def test_terms_and_gradients(name: str, packed: bool) -> None:
    """Each term, and the gradient of their weighted sum in every weight.

    The balance loss counts in float32 by design: its factors carry 6e-8, times α and order-one probabilities.
    """
    config = CASES[name]
    weights = reference.random_weights(config, 2)
    tokens, first = batch(config, rows=2, length=26, seed=3, packed=packed)
    model, losses = real(config, weights, tokens, first)
    losses.total.backward()
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    expected = expected_losses(config, leaves, tokens, first)
    factor = {"z": WEIGHTS.z, "balance": WEIGHTS.balance}
    for term, value in expected.items():
        found = getattr(losses, term)
        torch.testing.assert_close(
            found, (factor.get(term, 1.0) * value).detach(), atol=1e-8, rtol=1e-7, check_dtype=False,
            msg=lambda text, term=term: f"{term}: {text}",
        )  # fmt: skip
    total = weighed(expected)
    torch.testing.assert_close(losses.total, total, atol=1e-7, rtol=1e-7, check_dtype=False)
    total.backward()
    for key, parameter in model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        wanted = torch.zeros_like(parameter) if leaves[key].grad is None else leaves[key].grad
        torch.testing.assert_close(grad, wanted, atol=1e-8, rtol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("stage", ["sparse", "dense"])
def test_indexer_loss_of_the_draft_block(stage: str) -> None:
    """Its owner learns from the attention of every draft step (a group of three).

    Positions with no next token to draft from teach it nothing: a later step has fewer rows.
    """
    config = small()
    weights = reference.random_weights(config, 2)
    tokens, first = batch(config, rows=2, length=26, seed=4)
    model, losses = real(config, weights, tokens, first, indexer_stage=stage)
    losses.total.backward()
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    rows = tokens.shape[1] - 1
    documents = reference.run(leaves, config, tokens, dense=stage == "dense", mtp=True)
    groups = [group for document in documents for group in [*document.groups, document.mtp_group] if group]
    expected = torch.stack([reference.indexer_kl(group)[:rows].sum() for group in groups]).sum() / (2 * rows)
    torch.testing.assert_close(losses.indexer, expected.detach(), atol=1e-9, rtol=1e-9)
    (WEIGHTS.indexer * expected).backward()
    for key, parameter in model.named_parameters():
        if ".indexer." in key:
            torch.testing.assert_close(parameter.grad, leaves[key].grad, atol=1e-9, rtol=1e-7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("packed", [False, True], ids=["whole rows", "packed"])
def test_dense_warm_up_trains_indexers_alone(packed: bool) -> None:
    config = small(mtp={"layers": 0})
    weights = reference.random_weights(config, 2)
    tokens, first = batch(config, rows=2, length=26, seed=5, packed=packed)
    model, losses = real(config, weights, tokens, first, indexer_stage="dense")
    losses.total.backward()
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    expected = expected_losses(config, leaves, tokens, first, dense=True)
    torch.testing.assert_close(losses.indexer, expected["indexer"].detach(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(losses.lm, expected["lm"].detach(), atol=1e-9, rtol=1e-9)
    (WEIGHTS.indexer * expected["indexer"]).backward()
    found = gradients(model)
    assert found.keys() == {name for name in weights if ".indexer." in name}
    for key, grad in found.items():
        torch.testing.assert_close(grad, leaves[key].grad, atol=1e-9, rtol=1e-7)


def test_indexer_and_base_learn_apart() -> None:
    """The indexer's loss gives the base no gradient, and every other loss gives the indexer none."""
    config = small()
    weights = reference.random_weights(config, 2)
    tokens, first = batch(config, rows=2, length=26, seed=6, packed=True)
    grads = {}
    for weight in (0.0, 1.0):
        model, losses = real(config, weights, tokens, first, indexer=weight)
        losses.total.backward()
        grads[weight] = gradients(model)
    indexers = {name for name in weights if ".indexer." in name}
    assert not grads[0.0].keys() & indexers
    assert grads[1.0].keys() == grads[0.0].keys() | indexers
    for name, grad in grads[0.0].items():
        assert torch.equal(grads[1.0][name], grad), name


def test_switched_off_indexer_loss() -> None:
    config = small()
    tokens, first = batch(config, rows=2, length=26, seed=6)
    model, losses = real(config, reference.random_weights(config, 2), tokens, first, indexer_every=0)
    losses.total.backward()
    assert losses.indexer == 0
    assert not any(".indexer." in name for name in gradients(model))


def test_indexer_kl_is_zero_where_it_must_be_and_positive_elsewhere() -> None:
    """A query that sees one key has nothing to learn; the sum over a group grows with its sublayers."""
    config = small(mtp={"layers": 0})
    weights = reference.random_weights(config, 2)
    tokens, _ = batch(config, rows=3, length=2, seed=6)
    _, losses = real(config, weights, tokens, torch.zeros_like(tokens))
    assert abs(losses.indexer.item()) < 1e-12
    tokens, _ = batch(config, rows=3, length=20, seed=6)
    _, losses = real(config, weights, tokens, torch.zeros_like(tokens))
    assert losses.indexer > 0.01


def test_micro_batches_add_up() -> None:
    """Documents of uneven length: the sum over micro-batches is the mean over the global batch's targets."""
    config = small(mtp={"indexer": False})
    weights = reference.random_weights(config, 2)
    tokens, first = batch(config, rows=4, length=26, seed=7, packed=True)
    first[0] = 0
    model = built(config, weights)
    whole = compute_losses(model, tokens, first, planned(config, first))
    plan = planned(config, first, micro_batches=4)
    parts = [compute_losses(model, tokens[i : i + 1], first[i : i + 1], plan) for i in range(4)]
    for term in ("lm", "mtp", "z", "indexer"):
        found = sum(getattr(part, term) for part in parts)
        torch.testing.assert_close(found, getattr(whole, term), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_balance_loss_is_one_per_group_at_balance(groups: int) -> None:
    """With every expert chosen (K = E + Z) counts are balanced: f_j = 1, so the loss is the probabilities' sum, 1."""
    config = tiny(moe_topk=9)
    weights = reference.random_weights(config, 2)
    tokens, first = batch(config, rows=2, length=9, seed=8)
    model = built(config, weights)
    targets = count_targets(first, config)
    plan = plan_losses(replace(WEIGHTS, balance_groups=groups), config, 6.0, targets, 1, step=1, steps=10)
    trunk = model.trunk(tokens, model.context(tokens))
    factors = balance_factors(torch.stack([layer.counts for layer in trunk.routing]), config, plan)
    found = balance_loss(trunk.routing, factors, trunk.hidden) / tokens.numel()
    assert found.item() == pytest.approx(config.num_layers, rel=1e-6)


def test_recomputation_changes_nothing() -> None:
    config = small()
    weights = reference.random_weights(config, 2)
    tokens, first = batch(config, rows=2, length=26, seed=9, packed=True)
    results = []
    for recompute in (False, True):
        model = built(config, weights)
        model.recompute = recompute
        losses = compute_losses(model, tokens, first, planned(config, first))
        losses.total.backward()
        results.append((losses.total.detach(), gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    assert all(torch.equal(grad, results[1][1][name]) for name, grad in results[0][1].items())
