"""Rows that live elsewhere, on real processes against a table that is here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint

from homegrown.config import load_preset
from homegrown.model import Longcat, sparse_lookup
from homegrown.parallel.collectives import TRAFFIC
from homegrown.parallel.groups import ALONE, Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.rows import RowExchange, row_exchange
from homegrown.parallel.rowsum import Addends, tree_rows
from homegrown.parallel.tree import tree_sum
from tests.train import tiny

from .spawn import spawn

ROWS, WIDTH = 203, 6
BORDERS = [0, 50, 51, 140, ROWS]
"""The second process has one row only."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(dtype: torch.dtype) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=seeded(0)).to(dtype)


def lookups(leaf: int) -> list[Tensor]:
    """Ids of the lookups of a leaf (global number): a large one, full of repetitions, and two small ones. The first
    and the last row of every process are among them."""
    edges = torch.tensor([*BORDERS[:-1], *(border - 1 for border in BORDERS[1:])])
    skewed = torch.randint(0, ROWS, (80,), generator=seeded(leaf)) ** 2 // ROWS
    small = torch.randint(0, ROWS // 4, (2, 2, 20), generator=seeded(100 + leaf))
    return [torch.cat((skewed, edges)).view(2, -1), *small]


def weights(leaf: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(*ids.shape, WIDTH, generator=seeded(200 + leaf)).to(dtype) for ids in lookups(leaf)]


def loss(rows: list[Tensor], leaf: int) -> Tensor:
    """Of a leaf's looked-up rows."""
    return sum((row * weight).sum() for row, weight in zip(rows, weights(leaf, rows[0].dtype), strict=True))


def reference(leaves: int, dtype: torch.dtype) -> Tensor:
    """One process: each leaf's sparse gradient by autograd, coalesced; all in tree order."""
    gradients = []
    for leaf in range(leaves):
        here = table(dtype).requires_grad_()
        loss([sparse_lookup(here, ids) for ids in lookups(leaf)], leaf).backward()
        gradients.append(here.grad.coalesce())
    return tree_sum(gradients).to_dense().to(torch.float32)


def accumulate(exchange: RowExchange, rank: int, leaves: int, dtype: torch.dtype, here: Tensor) -> Tensor:
    """This process's leaves, forward and backward; the gradient of the rows that are here."""
    for leaf in range(leaves):
        number = rank * leaves + leaf
        exchange.begin_leaf(leaf)
        rows = [exchange(here, ids) for ids in lookups(number)]
        whole = table(dtype)
        assert all(torch.equal(row, whole[ids]) for row, ids in zip(rows, lookups(number), strict=True))
        loss(rows, number).backward()
    assert here.grad is None
    total = exchange.collect(leaves)
    assert total.is_coalesced()
    assert total.dtype == torch.promote_types(dtype, torch.float32)
    return total


def part(exchange: RowExchange, dtype: torch.dtype) -> Tensor:
    return table(dtype)[exchange.start : exchange.start + exchange.rows].clone().requires_grad_()


# Cases


def data_parallel(world: Any) -> None:
    """Bit for bit what one process gets, for any number of leaves on each."""
    group = Groups(Layout(dp=4), world.rank, 60)["world"]
    exchange = RowExchange(group, BORDERS, WIDTH)
    for dtype in (torch.float32, torch.bfloat16):
        for leaves in (1, 2, 3):
            total = accumulate(exchange, world.rank, leaves, dtype, part(exchange, dtype))
            wanted = reference(4 * leaves, dtype)[exchange.start :][: exchange.rows]
            assert torch.equal(total.to_dense(), wanted), (dtype, leaves)
            assert total._nnz() == int((wanted != 0).any(-1).sum())


def traffic(world: Any) -> None:
    """Each different id travels once."""
    group = Groups(Layout(dp=4), world.rank, 60)["world"]
    exchange = RowExchange(group, BORDERS, WIDTH)
    TRAFFIC.reset()
    exchange(part(exchange, torch.float32), lookups(world.rank)[0])

    def needed(source: int) -> Tensor:
        return torch.searchsorted(torch.tensor(BORDERS[1:]), lookups(source)[0].unique(), right=True)

    asked = sum(int((needed(world.rank) == rank).sum()) for rank in range(4) if rank != world.rank)
    answered = sum(int((needed(rank) == world.rank).sum()) for rank in range(4) if rank != world.rank)
    assert TRAFFIC.totals["all_to_all", "world"][1] == 8 * 3 + 8 * asked + 4 * WIDTH * answered


def shared_leaves(world: Any) -> None:
    """Processes that share rows hold parts of the same leaves: to rounding what one process gets."""
    group = Groups(Layout(dp=2, tp=2), world.rank, 60)["world"]
    exchange = RowExchange(group, BORDERS, WIDTH, sharing=2)
    here = part(exchange, torch.float32)
    batch, place = divmod(world.rank, 2)
    for leaf in range(2):
        number = batch * 2 + leaf
        exchange.begin_leaf(leaf)
        rows = [exchange(here, ids.chunk(2, dim=1)[place]) for ids in lookups(number)]
        pairs = zip(rows, weights(number, torch.float32), strict=True)
        sum((row * weight.chunk(2, dim=1)[place]).sum() for row, weight in pairs).backward()
    wanted = reference(4, torch.float32)[exchange.start :][: exchange.rows]
    torch.testing.assert_close(exchange.collect(2).to_dense(), wanted, rtol=1e-5, atol=1e-5)


def recomputed(world: Any) -> None:
    """A lookup that is made again in the backward pass counts once, in its own leaf. Leaves may wait for their
    backward, as in a pipeline, and one may not learn at all."""
    group = Groups(Layout(dp=4), world.rank, 60)["world"]
    exchange = RowExchange(group, BORDERS, WIDTH)
    here = part(exchange, torch.float32)
    losses = []
    for leaf in range(2):
        exchange.begin_leaf(leaf)

        def lookup(ids: Tensor) -> Tensor:
            return exchange(here, ids).sin().asin()  # something to keep, and so to recompute

        ids = lookups(world.rank * 2 + leaf)
        rows = [checkpoint(lookup, item, use_reentrant=False) for item in ids]
        losses.append(loss(rows, world.rank * 2 + leaf))
    exchange.begin_leaf(2)
    with torch.no_grad():
        exchange(here, lookups(9)[0])
    for item in losses:
        item.backward()
    plain = RowExchange(group, BORDERS, WIDTH)
    for leaf in range(2):
        plain.begin_leaf(leaf)
        number = world.rank * 2 + leaf
        loss([plain(here, ids).sin().asin() for ids in lookups(number)], number).backward()
    assert torch.equal(exchange.collect(3).to_dense(), plain.collect(3).to_dense())


def models(world: Any) -> None:
    """The whole model, drafts with n-grams included."""
    base = tiny.model_config()
    config = dataclasses.replace(base, mtp=dataclasses.replace(base.mtp, use_ngram=True))
    groups = Groups(Layout(dp=4, embp=4, part_layers=(config.num_layers,)), world.rank, 60)
    tokens = torch.randint(0, config.vocab_size, (4, 2, 16), generator=seeded(5))

    def work(model: Longcat, rank: int) -> Tensor:
        context = model.context(tokens[rank])
        trunk = model.trunk(tokens[rank], context)
        draft = model.draft(tokens[rank], model.draft_start(trunk), context)
        logits = model.logits(trunk.output) + model.logits(draft.output)
        (logits * torch.randn(logits.shape, generator=seeded(rank))).sum().backward()
        return logits.detach()

    model = Longcat(config)
    model.init_weights(0)
    model.ngram_embeddings.lookup = sparse_lookup
    gradients, outputs = [], []
    for rank in range(4):
        model.ngram_embeddings.table.grad = None
        outputs.append(work(model, rank))
        gradients.append(model.ngram_embeddings.table.grad.coalesce())
    exchange = row_exchange(groups, config)
    whole = model.ngram_embeddings.table
    assert exchange.borders[-1] == whole.shape[0]
    whole.data = whole.data[exchange.start : exchange.start + exchange.rows].clone()
    whole.grad = None
    model.ngram_embeddings.lookup = exchange
    assert torch.equal(work(model, world.rank), outputs[world.rank])
    total = exchange.collect(1).to_dense()
    assert torch.equal(total, tree_sum(gradients).to_dense()[exchange.start :][: exchange.rows])


def cases(world: Any) -> None:
    torch.use_deterministic_algorithms(True)
    for case in (data_parallel, traffic, shared_leaves, recomputed, models):
        case(world)


def test_rows():
    spawn(4, cases)


# Without processes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leaves", [1, 3, 4])
def test_alone(dtype, leaves):
    exchange = RowExchange(ALONE, [0, ROWS], WIDTH)
    total = accumulate(exchange, 0, leaves, dtype, table(dtype).requires_grad_())
    assert torch.equal(total.to_dense(), reference(leaves, dtype))
    with pytest.raises(ValueError, match="gradients of leaves \\[\\] in a step of 1 leaves"):
        exchange.collect(1)


def test_a_leaf_too_many():
    exchange = RowExchange(ALONE, [0, ROWS], WIDTH)
    exchange.begin_leaf(2)
    exchange(table(torch.float32).requires_grad_(), lookups(0)[0]).sum().backward()
    with pytest.raises(ValueError, match="gradients of leaves \\[2\\] in a step of 2 leaves"):
        exchange.collect(2)


@pytest.mark.parametrize("borders", [[0, 4, 9], [1, 9], []])
def test_borders_must_fit(borders):
    with pytest.raises(ValueError, match="borders of rows"):
        RowExchange(ALONE, borders, WIDTH)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_the_tree_of_rows_is_the_tree(count):
    """Addends in any order, each with some of the rows."""
    dense = [torch.randn(30, 4, generator=seeded(number)) for number in range(count)]
    dense = [part * (torch.rand(30, 1, generator=seeded(50 + number)) < 0.4) for number, part in enumerate(dense)]
    sparse = [part.to_sparse(1).coalesce() for part in dense]
    ids = torch.cat([part.indices()[0] for part in sparse])
    addend = torch.cat([torch.full((part._nnz(),), number) for number, part in enumerate(sparse)])
    shuffled = torch.randperm(len(ids), generator=seeded(99))
    values = torch.cat([part.values() for part in sparse])
    rows, sums = tree_rows(Addends(ids[shuffled], addend[shuffled], values[shuffled]), count)
    wanted = tree_sum(sparse)
    assert torch.equal(rows, wanted.indices()[0])
    assert torch.equal(sums, wanted.values())


@pytest.fixture
def nobody() -> Iterator[None]:
    """A process group of 64 in which nobody answers."""
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=64)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("nobody")
def test_planned():
    """A dry run of the real tables: what travels is what uniform ids would need."""
    model = load_preset("longcat-2.0")
    groups = Groups(Layout(dp=64, embp=64, part_layers=(model.num_layers,)), 5, 60)
    exchange = row_exchange(groups, model, planned=True)
    number = 2048 * model.ngram.tables
    here = torch.empty(exchange.rows, exchange.width, dtype=torch.bfloat16, device="meta", requires_grad=True)
    ids = torch.empty(1, 2048, model.ngram.tables, dtype=torch.int64, device="meta")
    TRAFFIC.reset()
    for leaf in range(2):
        exchange.begin_leaf(leaf)
        rows = exchange(here, ids)
        assert rows.shape == (*ids.shape, exchange.width)
        rows.sum().backward()
    calls, sent = TRAFFIC.totals["all_to_all", "embp"]
    row = 2 * exchange.width
    assert calls == 6
    assert sent == pytest.approx(2 * number * 63 / 64 * (8 + row), rel=0.02), "tables are large: few ids are repeated"
    total = exchange.collect(2)
    assert total.shape == (exchange.rows, exchange.width)
    assert total._nnz() == pytest.approx(2 * number, rel=0.02)
    assert TRAFFIC.totals["all_to_all", "embp"][1] == pytest.approx(2 * sent, rel=0.02)
