"""Decode steps and prefill chunks: counted work, latencies, overlap."""

from dataclasses import replace

import pytest

from homegrown.cli.plan_serve import with_pages
from homegrown.plan.facts import Machine
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.decode import Decode
from homegrown.plan.serving.layer import Pass, Span, core_time, indexer_time, layer_time, seen
from homegrown.plan.serving.passes import decode_parts
from homegrown.plan.serving.setup import Pool, Precision, Speculation
from homegrown.plan.shapes import parameters

NONE = Pool(devices=16, tp=16, exchange="replicated", overlap=False)
ALONE = ((1.0, 600.0),)


def only(clock: Clock, **left) -> Clock:
    """The same device with some of its costs taken away."""
    return replace(clock, constants=replace(clock.constants, **left))


def step(clock, shape, pool, batch, contexts=ALONE, speculation=None):
    return decode_parts(clock, shape, pool, Precision(), speculation or Speculation(), contexts, batch)


def test_a_step_of_longcat_waits_for_about_190_collectives(longcat, clock_of):
    """With links that only have latency, all-reduces add 190 times the time of one (and two for what is embedded)."""
    clock = clock_of("p5en-h200")
    wide = tuple(replace(link, bandwidth=1e30, pair=1e30) for link in clock.machine.links)
    quick = Clock(replace(clock.machine, links=wide), clock.constants)
    one = 2 * (3 * 3.4e-6 + 20e-6) + clock.constants.kernel_floor
    assert step(quick, longcat, NONE, 1)["collectives"] / one == pytest.approx(190, rel=0.01)


def test_alone_a_request_waits_for_latency_and_not_for_weights(longcat, clock_of):
    parts = step(clock_of("p5en-h200"), longcat, NONE, 1)
    assert parts["collectives"] > sum(parts.values()) / 2
    weights = 16e9 / clock_of("p5en-h200").streaming
    assert weights < 0.3 * sum(parts.values())


def test_absorbed_attention_counts_what_the_formula_says(deepseek, clock_of):
    """2 t L H (2c + r) operations, all heads of a request in whole tiles."""
    clock = only(clock_of("hgx-h800"), kernel_floor=0.0, memory_share=1e9)
    attention = deepseek.layers[0].attention
    work = Pass(deepseek, Pool(devices=1), Precision(), [Span(32, 1, 5000)])
    flops = 2 * 32 * 5000 * 128 * (2 * 512 + 64)
    share = clock.machine.products["bf16"] * clock.constants.core_share
    assert core_time(clock, work, attention) == pytest.approx(flops / share)


def test_attention_reads_the_latent_once_for_all_heads(deepseek, clock_of):
    clock = only(clock_of("hgx-h800"), kernel_floor=0.0, core_share=1e9)
    work = Pass(deepseek, Pool(devices=8, tp=8, exchange="replicated"), Precision(), [Span(32, 1, 5000)])
    assert core_time(clock, work, deepseek.layers[0].attention) == pytest.approx(32 * 5000 * 1152 / clock.streaming)


def test_few_heads_of_a_device_are_padded(longcat, clock_of):
    """Over 16 or 32 devices a device's four or two heads fill a tile of 64: attention is not divided any more."""
    clock = only(clock_of("p5en-h200"), memory_share=1e9)
    group = longcat.layers[0]
    spans = [Span(1, 8192, 100_000, 95_904)]
    four, two, all_heads = (
        core_time(clock, Pass(longcat, Pool(devices=32, tp=tp), Precision(), spans), group.attention)
        for tp in (16, 32, 1)
    )
    assert four == two == pytest.approx(all_heads)


def test_the_indexer_is_replicated_and_sparse_attention_is_capped(longcat, clock_of):
    clock, group = clock_of("p5en-h200"), longcat.layers[0]

    def times(tp, keys):
        work = Pass(longcat, Pool(devices=32, tp=tp), Precision(), [Span(1, 8192, keys, keys - 4096)])
        return indexer_time(clock, work, group), core_time(clock, work, group.attention)

    near, far = times(32, 100_000), times(32, 200_000)
    assert far[0] / near[0] == pytest.approx(2, rel=0.03) and far[1] == near[1]
    assert times(1, 100_000)[0] == near[0]


def test_pages_save_most_of_a_long_prompts_scores(longcat, clock_of):
    """Published: 192.7 to 46.9 ms at 1M, 4.11 times, of an indexer that goes by pages (arXiv 2608.01662 section 5); the
    first four do not."""
    clock = clock_of("p5en-h200")
    paged = with_pages(longcat)
    work = Pass(longcat, Pool(devices=8, tp=8), Precision(), [Span(1, 16384, 1e6, 1e6 - 8192)])
    group = paged.layers[0]
    every = replace(group, attention=replace(group.attention, index_skip=0))
    whole, most, each = (indexer_time(clock, work, layers) for layers in (longcat.layers[0], group, every))
    assert whole / each == pytest.approx(4.11, rel=0.15)
    assert most == pytest.approx((4 * whole + 34 * each) / 38)
    short = replace(work, spans=[Span(1, 16384, 1e5, 9e4)])
    assert indexer_time(clock, short, group) == indexer_time(clock, short, longcat.layers[0])


@pytest.mark.parametrize(("past", "queries"), [(0, 8192), (1000, 4096), (5000, 64), (0, 1500)])
def test_keys_seen_under_a_budget_are_those_of_a_count(past, queries):
    counted = sum(min(position + 1, 2048) for position in range(past, past + queries)) / queries
    assert seen(Span(1, queries, past + (queries + 1) / 2, past), 2048) == pytest.approx(counted, rel=1e-9)


def test_shortcut_experts_hide_their_traffic(longcat, clock_of):
    clock = clock_of("hgx-h200")
    pool = Pool(devices=32, micro_batches=1)
    shown, hidden = (step(clock, longcat, replace(pool, overlap=overlap), 64) for overlap in (False, True))
    assert hidden["traffic"] < 0.5 * shown["traffic"]
    assert {**hidden, "traffic": 0} == {**shown, "traffic": 0}
    work = Pass(longcat, pool, Precision(), [Span(64, 1, 600)])
    time = layer_time(clock, work, longcat.layers[0])
    assert 0 < time.window < time.computing


def test_the_quicker_of_one_and_two_micro_batches_is_taken(deepseek, clock_of):
    clock = clock_of("hgx-h800")

    def seconds(batches, batch):
        return sum(step(clock, deepseek, Pool(devices=144, micro_batches=batches), batch, ((1.0, 5000.0),)).values())

    assert seconds(0, 4) == seconds(1, 4) < seconds(2, 4)
    assert seconds(0, 128) == seconds(2, 128) < seconds(1, 128)


def test_guesses_pay_where_requests_are_few(longcat, clock_of):
    clock, guess = clock_of("hgx-h200"), Speculation(steps=3, acceptance=0.85)
    pool = Pool(devices=32)

    def gain(batch):
        plain, guessed = (
            Decode(clock, longcat, pool, Precision(), speculation, ALONE).tpot(batch)
            for speculation in (Speculation(), guess)
        )
        return plain / guessed

    assert gain(1) > 1.7 and gain(1) > gain(256)


def test_the_largest_batch_keeps_the_bound_and_one_more_does_not(deepseek, clock_of):
    decode = Decode(clock_of("hgx-h800"), deepseek, Pool(devices=144), Precision(), Speculation(), ((1.0, 4000.0),))
    batch = decode.largest(0.05, 1000.0)
    assert decode.tpot(batch) <= 0.05 < decode.tpot(batch * 1.01)
    assert decode.largest(1e-4, 1000.0) == 0.0 and decode.largest(10.0, 1000.0) == 1000.0


def test_nothing_depends_on_links_where_there_is_one_device(catalogue, clock_of):
    shape, clock = catalogue.shape("llama-3-8b"), clock_of("hgx-h100")
    bare = Machine(**{**vars(clock.machine), "links": ()})
    bf16 = Precision(weights="bf16", dispatch="bf16", index="bf16")
    quick = only(clock, kernel_floor=0.0, step_overhead=0.0)
    for device in (quick, Clock(bare, quick.constants)):
        parts = decode_parts(device, shape, Pool(devices=1), bf16, Speculation(), ((1.0, 1.0),), 1)
        assert parts["collectives"] == parts["traffic"] == 0.0
        # What is left of one token alone is reading all weights but the embedding, which is looked up.
        read = 2 * (parameters(shape).total - shape.vocab * shape.hidden)
        assert sum(parts.values()) == pytest.approx(read / quick.streaming, rel=0.01)
