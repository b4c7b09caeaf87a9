"""What is kept for the backward pass, against the published equations, and for how long, against schedules played."""

import dataclasses

import pytest

from homegrown.parallel.schedule import nominal, simulate, training_order
from homegrown.plan.activations import activations, in_flight, layer_saved
from homegrown.plan.kernel import cut_of
from homegrown.plan.layout import Layout
from homegrown.plan.routing import reached
from homegrown.plan.shapes import preset_shape
from tests.plan.published import DEEPSEEK_V3, KORTHIKANTI, LLAMA_70B, gpt

TWO = preset_shape("longcat-2.0")


def kept(shape, kind=0, **fields):
    layout = Layout(**{"batch": fields.get("micro_batch", 1), "sequence": 2048, **fields})
    return activations(shape, cut_of(layout))[1 + kind].kept


def test_a_layer_keeps_what_the_equations_say():
    """arXiv 2205.05198 equations 1, 2, 4, 6 and section 5, for b sequences of s tokens, h wide, a heads, t devices."""
    h, a, s, b, t = 12288, 96, 2048, 2, 8
    shape, unit, scores = KORTHIKANTI["175B"], s * b * h, 5 * a * s / h
    common = {"micro_batch": b, "fused": False}
    assert kept(shape, recompute="none", **common) == unit * (34 + scores)
    assert kept(shape, recompute="none", tp=t, sequence_parallel=False, **common) == unit * (10 + 24 / t + scores / t)
    assert kept(shape, recompute="none", tp=t, **common) == unit / t * (34 + scores)
    assert kept(shape, recompute="selective", tp=t, **common) == unit / t * 34
    assert kept(shape, recompute="full", **common) == 2 * unit
    assert kept(shape, recompute="full", tp=t, sequence_parallel=False, **common) == 2 * unit


def test_context_parallelism_divides_it():
    for shape in (LLAMA_70B, DEEPSEEK_V3, TWO):
        assert kept(shape, sequence=16384, cp=8) == pytest.approx(kept(shape, sequence=16384) / 8, rel=1e-3)


def test_attention_on_the_chip_keeps_no_scores():
    """2 h: input, normed input; again before the feed-forward network; queries, keys, values; what is attended; and
    three times the width of the network. One float32 number a head and token."""
    h, width, heads, groups, tokens = 8192, 28672, 64, 8, 2048
    numbers = 4 * h + (heads + 2 * groups) * 128 + heads * 128 + 3 * width
    assert kept(LLAMA_70B, recompute="none") == tokens * (2 * numbers + 4 * heads)
    lighter = tokens * 2 * (2 * h + width)  # normed inputs, gated products
    assert kept(LLAMA_70B, recompute="selective") == kept(LLAMA_70B, recompute="none") - lighter
    assert kept(LLAMA_70B, recompute="full") == tokens * 2 * h


def test_devices_that_share_a_key_head_each_keep_it():
    numbers = {tp: kept(LLAMA_70B, tp=tp, recompute="none") * tp for tp in (1, 8, 32)}
    assert numbers[8] == numbers[1]
    assert numbers[32] == numbers[8] + 2048 * 2 * 2 * 8 * 128 * 3


def test_latent_attention_and_experts():
    tokens, h = 2048, 7168
    experts = DEEPSEEK_V3.layers[1].experts
    assert experts is not None
    saved = {(tensor.name, tensor.part): tensor for tensor in layer_saved(
        DEEPSEEK_V3, DEEPSEEK_V3.layers[1], cut_of(Layout(dp=64, ep=64, batch=64, sequence=2048))
    )}  # fmt: skip
    assert saved["compressed", "attention"].bytes == tokens * 2 * (1536 + 512)
    assert saved["queries, keys, values", "attention"].bytes == tokens * 2 * 128 * (192 + 192 + 128)
    assert saved["queries, keys, values", "attention"].fate == "again"
    # A token goes to 7.5 of 64 devices, and to 8 experts there.
    assert saved["arrived", "experts"].bytes == tokens * reached(experts, 64) * h * 2
    assert 7 < reached(experts, 64) < 8
    assert saved["up", "experts"].bytes == tokens * 8 * 2 * 2048 * 2
    assert saved["up", "shared experts"].bytes == tokens * 2 * 2048 * 2


def test_narrow_products_keep_narrow_inputs():
    wide, narrow = (kept(DEEPSEEK_V3, 1, precision=precision, dp=8, ep=8, batch=8) for precision in ("bf16", "fp8"))
    assert 0.6 * wide < narrow < 0.9 * wide
    assert kept(LLAMA_70B, precision="fp32", recompute="none") > 1.9 * kept(LLAMA_70B, recompute="none")


def test_indexers_keep_their_choice_once_for_the_sublayers_that_share_it():
    cut = cut_of(Layout(batch=1, sequence=8192))
    chosen = [tensor for tensor in layer_saved(TWO, TWO.layers[0], cut) if tensor.name == "chosen keys"]
    assert len(chosen) == 1 and chosen[0].bytes == 8192 * 2048 * 4


def test_ends():
    shape = gpt(1024, 8, 4)
    first, _, end, logits = activations(shape, cut_of(Layout(batch=1, sequence=512, recompute="none", fused=False)))
    assert first.kept == 512 * 1024  # which numbers were dropped
    assert end.kept == 4 * 512 * 1024  # before and after the final norm
    assert logits.kept == 4 * 512 * 51200  # arXiv 2205.05198 section 4.3
    with_drafts = activations(TWO, cut_of(Layout(batch=1, sequence=512)))[-1]
    assert with_drafts.kept == 4 * 2 * 512 * 163840


@pytest.mark.parametrize(("pp", "parts", "micro"), [(1, 1, 4), (4, 1, 8), (4, 1, 2), (8, 1, 32), (4, 2, 8), (4, 3, 16)])
def test_micro_batches_in_flight_are_those_of_the_schedule(pp, parts, micro):
    orders = [training_order(stage, pp, parts, micro) for stage in range(pp)]
    timeline = simulate(orders, parts, nominal)
    layout = Layout(pp=pp, parts=parts, batch=micro, sequence=1)
    for stage in range(pp):
        assert in_flight(layout, stage) * parts == timeline.in_flight(stage)


def test_micro_batches_in_flight_of_other_schedules():
    """arXiv 2401.10241 (ZB-H1), arXiv 2412.19437 table 2 (DualPipe)."""
    layout = Layout(pp=8, batch=64, sequence=1)
    assert [in_flight(dataclasses.replace(layout, schedule="zero-bubble"), stage) for stage in (0, 7)] == [8, 8]
    assert [in_flight(dataclasses.replace(layout, schedule="dual"), stage) for stage in (0, 7)] == [9, 9]
    assert in_flight(Layout(pp=8, batch=4, sequence=1, schedule="dual"), 0) == 4
