"""What the planner says devices send, against the messages of a dry run of the real code, by dimension."""

import dataclasses
from typing import NamedTuple

import pytest

from homegrown.config import ParallelConfig
from homegrown.parallel.layout import settle
from homegrown.parallel.planned import Balance, distinct
from homegrown.plan.kernel import cut_of
from homegrown.plan.layout import Layout
from homegrown.plan.shapes import shape_of
from homegrown.plan.states import held_on
from homegrown.plan.traffic import chosen_bytes, dense_numbers, sent, state_bytes
from homegrown.train.dryrun.job import rehearse
from tests.plan.test_agreement import BATCH, MODEL, SEQUENCE, configured, planned

# Latents are narrower than a state, as they are where they pay.
NARROW = dataclasses.replace(MODEL, q_lora_rank=16, kv_lora_rank=24)
SHAPE = shape_of(NARROW)
LAYOUTS = {
    "tp": (2, ParallelConfig(tp=2, embp=1)),
    "cp": (2, ParallelConfig(cp=2, embp=1)),
    "ep": (2, ParallelConfig(ep=2, embp=1)),
    "pp": (2, ParallelConfig(pp=2)),
    "dp": (2, ParallelConfig(embp=1)),
    "embp": (2, ParallelConfig(embp=2)),
    "all": (8, ParallelConfig(pp=2, cp=2, tp=2, ep=2, embp=2)),
}


class Pair(NamedTuple):
    """A rank's dry run, and its layout in the planner's words."""

    real: object
    layout: Layout

    @property
    def stage(self):
        return self.real.layout.place(self.real.rank).pp

    @property
    def plan(self):
        return sent(SHAPE, self.layout, self.stage)

    def bytes(self, *groups, op="", least=0):
        return sum(
            message.sent(self.real.rank)
            for message in self.real.messages
            if message.group in groups and op in message.op and message.sent(self.real.rank) >= least
        )


def ranks_of(name, world):
    """The first, and the last where it does something else."""
    return (0, world - 1) if name in ("tp", "all") else (0,)


@pytest.fixture(scope="module")
def pairs():
    found = {}
    for name, (world, parallel) in LAYOUTS.items():
        config = configured(NARROW, parallel, SEQUENCE, BATCH)
        layout = settle(config.parallel, world, config.model, config.data)
        found[name] = [
            Pair(rehearse(config, layout, rank), planned(layout, SEQUENCE, BATCH)) for rank in ranks_of(name, world)
        ]
    return found


def test_nobody_to_send_to():
    assert sent(SHAPE, Layout(batch=4, sequence=128)) == {}


# Tensor parallelism


def blocks(pair):
    """Blocks on a rank: sublayers of attention, dense networks, indexers, steps of the draft head, whether words."""
    layers = len(pair.real.layout.parts_of(pair.real.rank)[0].layers)
    first, last = pair.stage == 0, pair.stage == pair.layout.pp - 1
    steps = SHAPE.draft_steps if last else 0
    return 2 * layers + steps, 2 * layers + steps, layers + bool(steps), steps, int(first), int(last)


@pytest.mark.parametrize("name", ["tp", "all"])
def test_tensor_parallelism(pairs, name):
    """To the byte, with what the real code does otherwise. Published programs gather the inputs of blocks again in the
    backward pass, to keep only slices (arXiv 2205.05198 section 4.2.2), which the planner prices; the real code keeps
    them. Its probabilities for indexers go over all keys up to the last that a token sees (128 for tokens of the first
    rank's peer, 64 for those of the last one's), not the 64 chosen ones; and words, targets and what the loss sums are
    a few bytes a token."""
    for pair in pairs[name]:
        attention, dense, _, steps, first, last = blocks(pair)
        cut = cut_of(pair.layout)
        each = state_bytes(SHAPE, cut) / 2
        narrow = (16 + 24 + 8) / 64
        heads = (1 + steps) * last
        again = each * (attention * narrow + dense + heads)
        chosen = chosen_bytes(pair.layout, cut, SHAPE.layers[0]) / 2
        visible = SEQUENCE if pair.real.rank == 0 else 64
        tokens, own = cut.tokens, cut.tokens / 2
        beside = 8 * own * (first + steps + heads) + 12 * tokens * heads
        expected = pair.plan["tp"] + pair.layout.micro_batches * (
            -again + attention * chosen * (visible / 64 - 1) + beside
        )  # fmt: skip
        assert pair.bytes("tp") == expected
        assert pair.bytes("tp") == pytest.approx(pair.plan["tp"], rel=0.25)


# Context parallelism


@pytest.mark.parametrize("name", ["cp", "all"])
def test_context_parallelism(pairs, name):
    """Exactly: the planner gathers keys again in the backward pass, the real code keeps what it gathered (compressed):
    two rounds of three. Index keys go over all who share a sequence, under tensor parallelism too."""
    for pair in pairs[name]:
        _, _, owners, *_ = blocks(pair)
        layout = pair.layout
        index = 2.0 * SEQUENCE * 16 * owners * layout.micro_batches
        keys = pair.plan["cp"] * 2 / 3 - 2 * index / 2
        assert pair.bytes("cp") == pytest.approx(keys, rel=1e-12)
        shared = layout.cp * layout.tp
        assert pair.bytes("sequence", least=512) == pytest.approx(2 * index * (1 - 1 / shared), rel=1e-12)


# Experts


@pytest.mark.parametrize("name", ["ep", "all"])
def test_expert_parallelism(pairs, name):
    """A row brings the numbers and gates of its experts (four choices of eight bytes; of gates, gradients go back): 48
    bytes on 512, on a real model 1 %. The planner takes the mean number of real choices where the dry run averages
    over it, so that it reaches 3 % more ranks: less, the more experts there are."""
    for pair in pairs[name]:
        layout, real = pair.layout, pair.bytes("ep", least=64)
        layers = len(pair.real.layout.parts_of(pair.real.rank)[0].layers)
        tokens = SEQUENCE / layout.cp / layout.tp
        rows = -(-tokens * Balance.of(NARROW).reach(6) // 1)
        assert real == layout.micro_batches * layers * rows * (4 * 64 * 2 + 4 * (8 + 4))
        assert real / (1 + 48 / 512) == pytest.approx(pair.plan["ep"], rel=0.03)


# N-gram rows


@pytest.mark.parametrize("name", ["embp"])
def test_embedding_parallelism(pairs, name):
    """The real code sends a row once for all who look it up in a micro-batch, and its number with it: eight bytes on
    32, on a real model less than 1 %."""
    for pair in pairs[name]:
        ids = SEQUENCE * SHAPE.ngram_tables
        once = distinct(ids, SHAPE.ngram_rows) / ids
        assert pair.bytes("embp", least=64) == pytest.approx(pair.plan["embp"] * once * (1 + 8 / 32), rel=0.03)


# Pipeline


@pytest.mark.parametrize("name", ["pp", "all"])
def test_pipeline(pairs, name):
    """Exactly: the planner's stage has neighbours on both sides, and of two stages each has one."""
    for pair in pairs[name]:
        assert pair.bytes("pp", op="send") == pair.plan["pp"] / 2


# Gradients and weights


def once_a_step(pair):
    return pair.bytes("tokens", "expert_replicas", "words")


def wide(pair):
    """Two more bytes of a router's weight, on one of two ranks."""
    return 2.0 * held_on(SHAPE, pair.layout, pair.stage).wide / 2


@pytest.mark.parametrize("name", ["cp", "ep", "dp", "embp"])
def test_gradients_and_weights(pairs, name):
    """Within 1.5 %: the real code hands out routers' weights in float32, begins each piece at a
    multiple of 64 numbers, and sums norms. Rows of tables are a test of their own."""
    (pair,) = pairs[name]
    assert once_a_step(pair) == pytest.approx(pair.plan["dp"] - tables(pair) + wide(pair), rel=0.015)


def test_tensor_parallel_ranks_share_owners(pairs):
    """The real code sums what a rank holds over all ranks of the stage, also over those that hold other columns: whole
    matrices have one owner (Muon), and states are cut along the sequence, so that what every rank holds has partial
    gradients there. The planner sums over dp * cp, here one and two: with many, (1 - 1 / (dp cp tp)) is next to
    (1 - 1 / (dp cp)). Words are summed over both ends' ranks, eight here, whose sums go on to the few that own them."""
    for name, within in (("tp", 0.03), ("all", 0.2)):
        for pair in pairs[name]:
            layout = pair.layout
            held = held_on(SHAPE, layout, pair.stage)
            replicas = layout.dp * layout.cp * layout.tp
            dense = 6.0 * dense_numbers(layout, held) * (1 - 1 / replicas)
            experts = 6.0 * held.routed / layout.ep * (1 - layout.ep / replicas)
            assert once_a_step(pair) == pytest.approx(dense + experts + wide(pair), rel=within)
            planned_rows = tables(pair) if pair.stage == 0 else 0.0
            assert once_a_step(pair) >= pair.plan["dp"] - planned_rows


def tables(pair):
    """The planner's bytes of n-gram rows once a step."""
    layout = pair.layout
    members = layout.dp * layout.cp * layout.tp // layout.embp
    every = SEQUENCE * BATCH * SHAPE.ngram_tables * SHAPE.ngram_width / layout.embp
    return (4.0 * every / members + 2.0 * every) * (1 - 1 / members)


@pytest.mark.parametrize("name", ["cp", "dp"])
def test_rows_of_tables(pairs, name):
    """The planner takes every row that is looked up for another one; of 1,024 a rank 94 in a hundred differ. The real
    code sends their numbers, eight bytes on 64 and on 32."""
    for pair in pairs[name]:
        own = distinct(SEQUENCE * BATCH // 2 * SHAPE.ngram_tables, SHAPE.ngram_rows)
        every = distinct(SEQUENCE * BATCH * SHAPE.ngram_tables, SHAPE.ngram_rows)
        real = pair.bytes("row_replicas", least=64)
        assert real == pytest.approx((72 * own + 40 * every) / 2, rel=0.07)
        assert tables(pair) == pytest.approx(real, rel=0.1)
