"""Tensor parallelism, part by part: what each rank computes, which gradients it gets, what travels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homegrown.model import Longcat
from homegrown.model.layers import DenseFFN, Words
from homegrown.parallel import vocabulary
from homegrown.parallel.collectives import TRAFFIC, gather
from homegrown.parallel.groups import Group, Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.sequence import SequencePortion
from homegrown.parallel.tensor import ShardError, shard_tensors
from homegrown.parallel.vocabulary import SpreadWords, spread_cross_entropy

from .spawn import spawn
from .wholes import Case, cut

TP = Layout(tp=4, part_layers=(2,))
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def part(x: Tensor, dim: int, rank: int) -> Tensor:
    return x.chunk(4, dim)[rank].detach().clone()


def total(x: Tensor, group: Group) -> Tensor:
    return gather(x.detach(), group).sum(0)


def everything(world: Any) -> None:
    groups = Groups(TP, world.rank, 60)
    words(groups["tp"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "CHUNK_BYTES", 5 * 6 * 4)  # chunks of five tokens do not end where a rank's do
        cross_entropy(groups["tp"])
    cross_entropy_in_bfloat16(groups["tp"])
    feed_forward(groups)
    attention_traffic(groups)


def words(group: Group) -> None:
    """A row is copied, not computed: the same bits. Each rank's rows get the gradients of everybody's tokens."""
    table = numbers(0, 24, 6).requires_grad_()
    tokens = torch.randint(0, 24, (2, 12), generator=torch.Generator().manual_seed(1))
    weights = numbers(2, 2, 12, 6)
    whole = F.embedding(tokens, table)
    (whole * weights).sum().backward()

    here = SpreadWords(nn.Parameter(part(table, 0, group.rank)), group)
    assert isinstance(here, Words)
    out = here(part(tokens, 1, group.rank))
    assert torch.equal(out, part(whole, 1, group.rank))
    (out * part(weights, 1, group.rank)).sum().backward()
    torch.testing.assert_close(here.weight.grad, part(table.grad, 0, group.rank), **EXACT)


def cross_entropy(group: Group) -> None:
    """Each rank gives its own tokens' loss and, for the rows and the hidden states that it holds, the whole gradient;
    large logits do not overflow, tokens without a target add nothing."""
    hidden, weight = numbers(3, 28, 8).requires_grad_(), (30 * numbers(4, 24, 8)).requires_grad_()
    target = torch.randint(0, 24, (28,), generator=torch.Generator().manual_seed(5))
    target[[0, 6, 7, 20]] = -1
    target[14:21] = -1  # one rank has no target at all
    losses = F.cross_entropy(hidden @ weight.T, target, ignore_index=-1, reduction="none")
    (0.5 * losses.sum()).backward()

    own_hidden, rows = part(hidden, 0, group.rank).requires_grad_(), part(weight, 0, group.rank).requires_grad_()
    own_target = part(target, 0, group.rank)
    loss = spread_cross_entropy(own_hidden, rows, own_target, group)
    torch.testing.assert_close(loss.detach(), part(losses, 0, group.rank).sum(), **EXACT)
    (0.5 * loss).backward()
    torch.testing.assert_close(own_hidden.grad, part(hidden.grad, 0, group.rank), **EXACT)
    torch.testing.assert_close(rows.grad, part(weight.grad, 0, group.rank), **EXACT)
    with torch.no_grad():
        assert torch.equal(spread_cross_entropy(own_hidden, rows, own_target, group), loss)


def cross_entropy_in_bfloat16(group: Group) -> None:
    """Losses are float32, gradients come in the weights' precision; both are right to that precision."""
    hidden, weight = (numbers(seed, 24, 8).bfloat16().requires_grad_() for seed in (6, 7))
    target = torch.randint(0, 24, (24,), generator=torch.Generator().manual_seed(8))
    whole = F.cross_entropy(hidden.double() @ weight.double().T, target, reduction="sum")
    whole.backward()
    own_hidden, rows = part(hidden, 0, group.rank).requires_grad_(), part(weight, 0, group.rank).requires_grad_()
    loss = spread_cross_entropy(own_hidden, rows, part(target, 0, group.rank), group)
    loss.backward()
    assert loss.dtype == torch.float32
    assert own_hidden.grad.dtype == rows.grad.dtype == torch.bfloat16
    torch.testing.assert_close(total(loss, group), whole.float(), rtol=1e-2, atol=0)
    torch.testing.assert_close(own_hidden.grad, part(hidden.grad, 0, group.rank), rtol=0.05, atol=0.05)
    torch.testing.assert_close(rows.grad, part(weight.grad, 0, group.rank), rtol=0.05, atol=0.05)


def sharded_model(groups: Groups) -> tuple[Longcat, Longcat]:
    """The whole model, and this rank's."""
    case = Case(16)
    whole, here = case.whole_model(), case.whole_model()
    cut(here, TP, groups.rank)
    shard_tensors(here, groups["tp"])
    return whole, here


def feed_forward(groups: Groups) -> None:
    """A slice goes in and comes out; a spread weight's gradient is complete on its rank."""
    group = groups["tp"]
    whole, here = (model.layers["0"].mlps[0] for model in sharded_model(groups))
    assert isinstance(here, DenseFFN)
    x, weights = numbers(9, 2, 16, 32).requires_grad_(), numbers(10, 2, 16, 32)
    (whole(x) * weights).sum().backward()
    own = part(x, 1, group.rank).requires_grad_()
    out = here(own)
    torch.testing.assert_close(out, part(whole(x), 1, group.rank), **EXACT)
    (out * part(weights, 1, group.rank)).sum().backward()
    torch.testing.assert_close(own.grad, part(x.grad, 1, group.rank), **EXACT)
    for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        expected = part(getattr(whole, name).weight.grad, dim, group.rank)
        torch.testing.assert_close(getattr(here, name).weight.grad, expected, **EXACT)


def attention_traffic(groups: Groups) -> None:
    """Attention gathers compressed states only, and scatters one hidden state a token."""
    _, model = sharded_model(groups)
    case, config = Case(12), model.config
    micro = case.micro_batches()[0]
    context = SequencePortion(groups).context(model, micro.tokens, micro.first, "off")
    assert not context.wants_index(), "rows within the budget"
    TRAFFIC.reset()
    with torch.no_grad():
        model.layers["0"].self_attn[0](torch.zeros(2, 3, config.hidden_size, dtype=torch.float64), context, None)
    own = 2 * 3 * 8  # bytes of one number a token
    compressed = config.q_lora_rank + config.kv_lora_rank + config.qk_rope_head_dim
    assert TRAFFIC.totals == {
        ("all_gather", "tp"): [2, 3 * own * compressed],
        ("reduce_scatter", "tp"): [1, 3 * own * config.hidden_size],
    }


def test_each_part():
    spawn(4, everything)


OF_TWO = Group("tp", (0, 1), 1)
"""A group of which nobody talks."""


def sliced(rank: int, of: Layout) -> Longcat:
    model = Case(16).whole_model()
    cut(model, of, rank)
    return model


def test_a_group_of_one_changes_nothing():
    model = Case(16).whole_model()
    shard_tensors(model, Group("tp", (0,), 0))
    assert type(model.embed_tokens) is Words
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_parameters_keep_their_names_and_order():
    model = sliced(1, Layout(tp=2, part_layers=(2,)))
    names = [name for name, _ in model.named_parameters()]
    shard_tensors(model, OF_TWO)
    assert [name for name, _ in model.named_parameters()] == names


def test_a_part_without_ends():
    model = sliced(1, Layout(tp=2, part_layers=(2,)))
    model.embed_tokens = model.lm_head = model.norm = model.mtp = None
    shard_tensors(model, OF_TWO)
    assert model.layers["1"].self_attn[0].o_proj._forward_hooks


def test_weights_that_are_no_shards_are_refused():
    with pytest.raises(ShardError, match=r"embed_tokens.weight: 304 of 304 rows \(vocab_size\) are here; .* tp 2 "):
        shard_tensors(Case(16).whole_model(), OF_TWO)
    model = sliced(0, Layout(tp=2, part_layers=(2,)))
    projection = model.layers["1"].self_attn[0].o_proj
    projection.weight.data = projection.weight.data[:, :8]
    with pytest.raises(ShardError, match=r"layers.1.self_attn.0.o_proj.weight: 8 of 32 columns \(heads\)"):
        shard_tensors(model, OF_TWO)


def test_no_logits_of_a_spread_vocabulary():
    model = sliced(1, Layout(tp=2, part_layers=(2,)))
    shard_tensors(model, OF_TWO)
    with pytest.raises(ShardError, match=r"use lm_head.cross_entropy"):
        model.logits(torch.zeros(1, 2, 32, dtype=torch.float64))
