"""Kernels of an update, against the optimizer's own cost and a deal of pieces."""

import dataclasses
import random

import pytest

from homegrown.optim.groups import Group
from homegrown.parallel.pieces import TOUCH, Team, deal, update_cost
from homegrown.plan.layout import Layout
from homegrown.plan.shapes import parameters, preset_shape
from homegrown.plan.update import ADAMW_BYTES, NEWTON_SCHULZ, Class, fullest, update_kernels
from tests.plan.published import gpt

TWO = preset_shape("longcat-2.0")
MUON = Group("hidden", "muon", 0.02, 0.1)


@pytest.mark.parametrize(("low", "high"), [(512, 512), (2048, 8192), (8192, 12288)])
def test_orthogonalising_costs_what_the_optimizer_says(low, high):
    cost = update_cost((high, low), MUON, NEWTON_SCHULZ) - TOUCH * low * high
    assert Class(low, high, 1).flops == cost


@pytest.mark.parametrize("owners", [1, 3, 16, 50])
def test_the_fullest_owner_is_close_to_that_of_a_deal(owners):
    """The real deal gives the dearest matrix left to whoever has least: at most a third above the best deal."""
    drawn = random.Random(owners)
    for _ in range(20):
        classes = [
            Class(drawn.choice((64, 128, 256)), drawn.choice((256, 512)), drawn.randint(1, 20)) for _ in range(4)
        ]
        costs = [kind.flops for kind in classes for _ in range(int(kind.number))]
        team = Team("tokens", tuple(range(owners)), 1)
        loads = [0.0] * owners
        for cost, owner in zip(costs, deal(costs, [[0]] * len(costs), team), strict=True):
            loads[owner] += cost
        assert max(loads) / 1.34 <= fullest(classes, owners) <= max(loads) * (1 + 1e-9)


def test_alone_everything_is_updated_here():
    layout = Layout(batch=1, sequence=128)
    shape = gpt(256, 4, 3, vocab=1000)
    (adam,) = update_kernels(shape, layout, 0)
    assert adam.bytes == ADAMW_BYTES * parameters(shape).total
    plain, momentum, *products = update_kernels(shape, dataclasses.replace(layout, optimizer="muon"), 0)
    matrices = 3 * 12 * 256 * 256
    assert plain.bytes == ADAMW_BYTES * (parameters(shape).total - matrices)
    assert momentum.bytes == pytest.approx(24 * matrices)
    expected = 3 * (4 * Class(256, 256, 1).flops + 2 * Class(256, 1024, 1).flops)
    assert sum(kernel.flops for kernel in products) == pytest.approx(expected)


def test_many_owners_wait_for_the_largest_matrix():
    """The draft head's merging matrix is the largest of the last stage; a thousandth of it would be too little."""
    few, many = (Layout(pp=2, dp=dp, ep=16, batch=dp, sequence=128, optimizer="muon") for dp in (16, 1 << 19))
    work = [sum(kernel.flops for kernel in update_kernels(TWO, layout, 1)) for layout in (few, many)]
    largest, expert = Class(8192, 16384, 1).flops, Class(2048, 8192, 1).flops
    assert work[1] == pytest.approx(largest + expert)
    assert work[0] > 10 * work[1]


def test_without_zero_every_rank_does_everything():
    shared, alone = (
        sum(
            kernel.flops
            for kernel in update_kernels(TWO, Layout(dp=64, batch=64, sequence=128, zero=zero, optimizer="muon"), 0)
        )
        for zero in (1, 0)
    )
    assert alone == pytest.approx(64 * shared, rel=0.05)


def test_rows_that_nobody_looked_up_stay():
    layout = Layout(dp=8, embp=8, batch=8, sequence=128)
    untouched = dataclasses.replace(TWO, ngram_rows=0)
    more = update_kernels(TWO, layout, 0)[0].bytes - update_kernels(untouched, layout, 0)[0].bytes
    assert more == pytest.approx(ADAMW_BYTES * 128 * 16 * 512)
