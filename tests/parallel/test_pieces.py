"""Pieces, owners and buckets as data."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from homegrown.config import ModelConfig, OptimConfig, load_preset, preset_names
from homegrown.optim import group_of
from homegrown.optim.newton_schulz import orthogonalize
from homegrown.parallel.buckets import Item, fill_buckets
from homegrown.parallel.collectives import TRAFFIC
from homegrown.parallel.exchange import sum_rows
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.pieces import (
    TOUCH,
    Piece,
    Team,
    deal,
    deal_rows,
    extents,
    model_shapes,
    piece_borders,
    team_of,
    update_cost,
)
from homegrown.parallel.tree import tree_sum
from homegrown.parallel.zero import ShardedOptimizer
from tests.train.tiny import model_config

OPTIM = OptimConfig()
LAYOUTS = [
    {"dp": 4}, {"tp": 4}, {"dp": 2, "tp": 2, "ep": 2, "embp": 4},
    {"pp": 2, "dp": 2, "cp": 2, "tp": 2, "ep": 2, "embp": 8},
]  # fmt: skip


def layout_of(model: ModelConfig, sizes: dict[str, int]) -> Layout:
    pp, layers = sizes.get("pp", 1), model.num_layers
    return Layout(**sizes, part_layers=tuple(layers * (part + 1) // pp - layers * part // pp for part in range(pp)))


def pieces(model: ModelConfig) -> Iterator[tuple[Piece, tuple[int, ...]]]:
    for name, shape in model_shapes(model).items():
        for start, stop in pairwise(piece_borders(shape, group_of(name, shape, OPTIM, model))):
            yield Piece(name, start, stop), shape


class TestPieces:
    @pytest.mark.parametrize("preset", preset_names())
    @pytest.mark.parametrize("hidden", ["muon", "adamw"])
    def test_what_a_piece_is(self, preset, hidden):
        model = load_preset(preset)
        optim = OptimConfig(hidden=hidden)
        for name, shape in model_shapes(model).items():
            group = group_of(name, shape, optim, model)
            borders = piece_borders(shape, group)
            assert borders[0] == 0 and borders[-1] == shape[0] and borders == sorted(set(borders)), name
            count, width = len(borders) - 1, math.prod(shape[1:])
            if len(shape) > 2:
                assert count == shape[0], "of a stack each index is a piece"
            elif group.optimizer == "muon":
                assert count == 1, "a matrix is whole"
            else:
                least = 64 if name == "ngram_embeddings.table" else 1
                assert count <= max(4096, least)
                sizes = [width * (stop - start) for start, stop in pairwise(borders)]
                assert max(sizes) - min(sizes) <= width, "blocks are alike"
                assert count == 4096 or max(sizes) <= (1 << 22) + width

    def test_key(self):
        assert Piece("lm_head.weight", 16, 32).key == "lm_head.weight@16:32"

    @pytest.mark.parametrize("embp", [1, 2, 3, 5, 64])
    def test_shards_of_tables_end_where_pieces_end(self, embp):
        model = model_config()
        layout, name = layout_of(model, {"dp": embp, "embp": embp}), "ngram_embeddings.table"
        shape = model_shapes(model)[name]
        borders = piece_borders(shape, group_of(name, shape, OPTIM, model))
        shards = [layout.shard(name, shape, rank, model) for rank in range(embp)]
        assert {shard.start for shard in shards} | {shard.stop for shard in shards} <= set(borders)

    @pytest.mark.parametrize("sizes", LAYOUTS, ids=str)
    def test_columns_hold_every_piece_whole_and_once(self, sizes):
        model = model_config(num_attention_heads=4)
        layout = layout_of(model, sizes)
        for rank, (piece, shape) in itertools.product(range(layout.world), pieces(model)):
            shard = layout.shard(piece.name, shape, rank, model)
            if shard is None:
                continue
            team = team_of(piece.name, layout, rank, model)
            assert rank in team.ranks
            held = [extent for extent in extents(piece, shape, team, layout, model) if extent is not None]
            if layout.axis(piece.name) in ("ep", "embp") and not held:
                continue  # the piece of another shard
            covered = torch.zeros(piece.stop - piece.start, *shape[1:])
            for extent in held:
                part = covered.narrow(extent.dim, extent.start, extent.stop - extent.start)
                part += 1
                assert part.numel() == extent.numbers
            assert bool((covered == 1).all())
            for place, other in enumerate(team.ranks):
                same = layout.shard(piece.name, shape, other, model)
                first = layout.shard(piece.name, shape, team.ranks[place % team.columns], model)
                assert same == first, "members of a column hold the same"


class TestOwners:
    def test_costs_are_those_of_newton_schulz(self):
        group = group_of("layers.0.mlp.experts.gate_up_proj", (1, 2, 24, 40), OPTIM, model_config())
        with FlopCounterMode(display=False) as counter:
            orthogonalize(torch.randn(1, 2, 24, 40), 5, torch.float32)
        assert update_cost((1, 2, 24, 40), group, 5) == counter.get_total_flops() + TOUCH * 2 * 24 * 40
        assert update_cost((1, 2, 40, 24), group, 5) == update_cost((1, 2, 24, 40), group, 5)

    def test_dearest_first_to_whoever_has_least(self):
        team = Team("tokens", (0, 1, 2), 1)
        assert deal([1, 5, 3, 3, 2], [[0]] * 5, team) == [2, 0, 1, 2, 1]

    def test_owners_are_among_the_holders(self):
        team = Team("tokens", tuple(range(6)), 3)
        columns = [[index % 3] for index in range(30)]
        owners = deal([1.0] * 30, columns, team)
        assert [owner % 3 for owner in owners] == [index % 3 for index in range(30)]
        assert sorted(owners) == sorted(list(range(6)) * 5)

    @pytest.mark.parametrize("ranks", [2, 7, 64])
    def test_no_owner_has_more_than_its_share_and_one_piece(self, ranks):
        model = model_config(hidden_size=64, num_layers=4)
        costs = []
        for piece, shape in pieces(model):
            own = (piece.stop - piece.start, *shape[1:])
            costs.append(update_cost(own, group_of(piece.name, shape, OPTIM, model), 5))
        owners = deal(costs, [[0]] * len(costs), Team("tokens", tuple(range(ranks)), 1))
        loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(ranks)]
        assert max(loads) <= sum(costs) / ranks + max(costs)

    def test_rows_are_dealt_in_runs(self):
        assert deal_rows(64, 4) == [0, 16, 32, 48, 64]
        assert deal_rows(2, 4) == [0, 0, 1, 1, 2]


def tiny_items(columns: int, members: int) -> tuple[list[Item], Team, ModelConfig]:
    """Pieces of a tiny model's parameters that are spread over so many columns."""
    model = model_config(num_attention_heads=4)
    layout = layout_of(model, {"dp": members // columns, "tp": columns})
    items = []
    for piece, shape in pieces(model):
        team = team_of(piece.name, layout, 0, model)
        if team.columns == columns and team.kind == "tokens":
            own = (piece.stop - piece.start, *shape[1:])
            items.append(Item(piece, own, len(items) % members, tuple(extents(piece, shape, team, layout, model))))
    return items, Team("tokens", tuple(range(members)), columns), model


class TestBuckets:
    @pytest.mark.parametrize(("columns", "members"), [(1, 1), (1, 3), (1, 8), (2, 2), (2, 8), (4, 8)])
    def test_everybody_counts_alike(self, columns, members):
        items, team, _ = tiny_items(columns, members)
        everyone = [fill_buckets(items, team, member, 3000) for member in range(members)]
        assert len({len(buckets) for buckets in everyone}) == 1
        for together in zip(*everyone, strict=True):
            for one, other in itertools.product(range(members), repeat=2):
                assert together[one].shares[other] == together[other].copies[one]
                assert together[one].handed[other] == together[other].owned[one]
            for bucket in together:
                assert sum(bucket.shares) == bucket.line.length
                start, stop = bucket.share
                assert sum(bucket.handed) == stop - start
                assert sum(bucket.copies) <= bucket.line.length + team.holders, "nobody receives more than a bucket"
                own = sum(stop - start for start, stop in (line.segment(bucket.me) for line in bucket.lines))
                assert sum(bucket.owned) == own

    def test_they_are_bounded_and_hold_every_piece_once(self):
        items, team, _ = tiny_items(2, 4)
        buckets = fill_buckets(items, team, 0, 3000)
        assert sorted(item.piece for bucket in buckets for item in bucket.items) == sorted(item.piece for item in items)
        for bucket in buckets:
            for line in bucket.lines:
                numbers = sum(entry.extent.numbers for entry in line.entries)
                assert numbers <= 3000 or len(bucket.items) == 1
                assert all(entry.offset % 64 == 0 for entry in line.entries)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_of_rows_are_those_of_the_tree(count, dtype):
    rows = torch.randn(count, 70, generator=torch.Generator().manual_seed(count)).to(dtype)
    expected = tree_sum(list(rows.clone().unbind())).float()
    assert torch.equal(sum_rows(rows.clone()), expected)


class TestAtScale:
    """LongCat-2.0 on 49,152 ranks, seen by one of them: real plans, tensors without numbers, a network that is none."""

    @pytest.fixture(params=["words and tables", "tensor parallel end"])
    def rank(self, request):
        model = load_preset("longcat-2.0")
        first = request.param == "words and tables"
        sizes = {"tp": 1, "dp": 1024, "embp": 1024} if first else {"tp": 8, "dp": 128, "embp": 4096}
        layout = layout_of(model, {"pp": 12, "cp": 4, "ep": 128, **sizes})
        number = 0 if first else layout.world - 1
        assert layout.world == 49152
        dist.init_process_group("fake", store=FakeStore(), rank=number, world_size=layout.world)
        yield model, layout, number
        dist.destroy_process_group()

    def test_one_rank_plans_and_steps_in_seconds(self, rank):
        model, layout, number = rank
        weights = {}
        for name, shape in model_shapes(model).items():
            shard = layout.shard(name, shape, number, model)
            if shard is not None:
                empty = torch.empty(shard.local_shape, dtype=torch.bfloat16, device="meta")
                weights[name] = torch.nn.Parameter(empty)
        groups = Groups(layout, number, 60.0)
        begun = time.process_time()
        optimizer = ShardedOptimizer(weights, groups, OPTIM, model, True, ("n-gram tables",))
        for name, weight in weights.items():
            weight.grad = torch.empty_like(weight)
            if name == "ngram_embeddings.table":
                rows, values = torch.empty(1, 500, dtype=torch.int64, device="meta"), weight.grad[:500]
                weight.grad = torch.sparse_coo_tensor(
                    rows, values, weight.shape, is_coalesced=True, check_invariants=False
                )
        scalar = torch.empty((), device="meta")
        TRAFFIC.reset()
        optimizer.reduce()
        optimizer.step(1.0, scalar / optimizer.grad_norm(), scalar)
        assert time.process_time() - begun < 30, "a few seconds on an idle machine"

        numbers = sum(weight.numel() for name, weight in weights.items() if not optimizer._routes.is_lazy(name))
        sent = sum(sent for (op, _), (_, sent) in TRAFFIC.totals.items() if op == "all_to_all")
        # Gradients and weights in bfloat16 once each, their owned parts in both directions besides
        assert sent < 2 * 2 * numbers * 1.1
        memory = optimizer.bytes()
        assert memory["gradients"] == 2 * numbers
        # One matrix of the head and two of the experts may be the most that a rank owns
        assert memory["masters"] < 4 * (numbers / layout.dp + 2 * 16384 * 8192 + (1 << 25))
        assert memory["host"] == 0
