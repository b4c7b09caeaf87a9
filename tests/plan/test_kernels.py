"""Kernels: what they add up to, and what each layout changes."""

import dataclasses
from collections import Counter

import pytest

from homegrown.plan.facts import Shape
from homegrown.plan.kernels import Kernel, part_kernels, stage_kernels, total
from homegrown.plan.layout import Layout
from homegrown.plan.shapes import preset_shape
from homegrown.plan.work import flops, seen, work
from tests.plan.published import DEEPSEEK_V3, KORTHIKANTI, LLAMA_70B, QWEN_30B, gpt

TWO = preset_shape("longcat-2.0")
LAYOUTS = {
    "one": Layout(batch=1, sequence=4096, recompute="none"),
    "tp": Layout(tp=4, batch=1, sequence=4096, recompute="none"),
    "tp without sequences cut": Layout(tp=4, batch=1, sequence=4096, recompute="none", sequence_parallel=False),
    "cp": Layout(cp=4, batch=1, sequence=4096, recompute="none"),
    "stages": Layout(pp=4, parts=2, batch=8, sequence=4096, recompute="none"),
    "experts": Layout(dp=8, ep=8, batch=16, micro_batch=2, sequence=4096, recompute="none"),
    "experts cut": Layout(dp=2, tp=4, ep=4, etp=2, batch=2, sequence=4096, recompute="none"),
}


def of_direction(shape, layout, direction):
    """FLOPs of all stages for one micro-batch, by component."""
    found = Counter()
    for stage in range(layout.pp):
        for count, group in stage_kernels(shape, layout, stage):
            for kernel in getattr(group, direction):
                found[kernel.part] += count * kernel.flops
    return found


def named(shape, layout, stage=0):
    """Kernels of a stage by direction and name, each once."""
    return {
        (direction, kernel.name): kernel
        for _, group in stage_kernels(shape, layout, stage)
        for direction in ("forward", "backward", "again")
        for kernel in getattr(group, direction)
    }


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("shape", [DEEPSEEK_V3, LLAMA_70B, QWEN_30B], ids=lambda shape: shape.name)
def test_forward_kernels_are_the_models_work(shape, name):
    """On every device of a group alike: its share of the products' FLOPs, whatever is cut."""
    layout = LAYOUTS[name]
    found = of_direction(shape, layout, "forward")
    tokens = layout.micro_batch * layout.sequence / (layout.cp * layout.tp)
    expected = flops(shape, layout.sequence)
    if layout.tp > 1 and not layout.sequence_parallel:
        # What tensor parallelism does not cut is then done by every device of the group.
        repeated = sum(found.values()) - tokens * expected.total()
        assert (repeated > 0) == (shape is DEEPSEEK_V3)
        return
    assert sum(found.values()) == pytest.approx(tokens * expected.total(), rel=1e-12)
    assert found["draft head"] == pytest.approx(tokens * expected.draft, rel=1e-12)
    for part, number in work(shape, layout.sequence).items():
        if part != "attention core":
            more = work(shape, layout.sequence)["attention core"] if part == "attention" else 0
            assert found[part] == pytest.approx(tokens * (number + more), rel=1e-12)


@pytest.mark.parametrize("shape", [DEEPSEEK_V3, LLAMA_70B], ids=lambda shape: shape.name)
def test_backward_passes_take_twice_as_much_and_make_scores_again(shape):
    forward = of_direction(shape, LAYOUTS["one"], "forward")
    backward = of_direction(shape, LAYOUTS["one"], "backward")
    core = 4096 * work(shape, 4096)["attention core"]
    attention = shape.layers[0].attention
    query, value = attention.query, attention.value
    again = (3 * query + 2 * value) / (query + value)
    for part in backward.keys() - {"attention", "draft head"}:
        assert backward[part] == 2 * forward[part]
    assert backward["attention"] - again * core == pytest.approx(2 * (forward["attention"] - core), rel=1e-9)


def test_old_programs_write_scores_and_do_all_of_them():
    """With everything recomputed, arXiv 2104.04473 section 5.1: 96 B s l h^2 (1 + s / 6h + V / 16 l h)."""
    shape = gpt(6144, 48, 40)
    layout = Layout(batch=4, micro_batch=4, sequence=2048, recompute="full", fused=False)
    formula = 96 * 4 * 2048 * 40 * 6144**2 * (1 + 2048 / (6 * 6144) + 51200 / (16 * 40 * 6144))
    assert total(stage_kernels(shape, layout, 0))[0] == pytest.approx(formula, rel=1e-12)
    found = named(shape, layout)
    scores = 4 * 48 * 2048 * 2048
    assert found["forward", "softmax"].bytes == 4 * scores
    assert found["forward", "dropout"].bytes == 5 * scores
    assert found["forward", "scores"].products == 4 * 48
    assert (found["forward", "scores"].rows, found["forward", "scores"].inner) == (2048, 128)


def test_selective_recomputation_of_old_programs_does_attention_again():
    """Scores and weighted values, 2 b s^2 h each in a layer, and no product with weights."""
    shape = KORTHIKANTI["175B"]
    layout = Layout(tp=8, batch=1, sequence=2048, recompute="selective", fused=False)
    again = of_direction(shape, layout, "again")
    assert again == {"attention": 4 * 2048**2 * 12288 * 96 / 8}
    names = {name for direction, name in named(shape, layout) if direction == "again"}
    assert names == {"scores", "softmax", "dropout", "weighted values"}


def test_recomputation():
    for shape in (DEEPSEEK_V3, LLAMA_70B, TWO):
        none, selective, full = (
            Layout(batch=1, sequence=4096, recompute=kind) for kind in ("none", "selective", "full")
        )
        assert not of_direction(shape, none, "again")
        layers = of_direction(shape, full, "forward")
        layers -= Counter({part: layers[part] for part in ("head", "n-gram projections", "draft head")})
        again = of_direction(shape, full, "again")
        again.pop("draft head", None)
        assert {part: number for part, number in again.items() if number} == pytest.approx(
            {part: number for part, number in layers.items() if number}
        )
        some = of_direction(shape, selective, "again")
        names = {name for direction, name in named(shape, selective) if direction == "again"}
        assert {"norm before attention", "activation"} <= names
        if shape is LLAMA_70B:
            assert not sum(some.values())
        else:
            assert {"query up", "key-value up"} <= names
            assert 0 < sum(some.values()) < sum(again.values()) / 5


def test_experts_are_products_of_their_own():
    layout = LAYOUTS["experts cut"]
    up = named(DEEPSEEK_V3, layout, 0)["forward", "up"]
    assert isinstance(up, Kernel)
    kernels = [
        kernel
        for _, group in stage_kernels(DEEPSEEK_V3, layout, 0)
        for kernel in group.forward
        if kernel.part == "experts" and kernel.kind == "matmul"
    ]
    up, down = kernels
    tokens = 4096 / 4
    # 256 experts over 4 ranks, each expert cut in two: two ranks' tokens come to each of both halves.
    assert up.products == down.products == 64
    assert up.rows * up.products == tokens * 8 * 2
    assert (up.inner, up.columns, down.inner, down.columns) == (7168, 2 * 1024, 1024, 7168)
    assert up.bytes == 2 * 64 * (up.rows * 7168 + 7168 * 2048 + up.rows * 2048)


def test_zero_experts_cost_no_products():
    group = TWO.layers[0]
    assert group.experts is not None
    layout = Layout(batch=1, sequence=8192)
    fewer = dataclasses.replace(
        TWO, layers=(dataclasses.replace(group, experts=dataclasses.replace(group.experts, real=4.0)),)
    )
    some, half = (of_direction(shape, layout, "forward")["experts"] for shape in (TWO, fewer))
    assert some / half == pytest.approx(7.85 / 4)


def test_sparse_attention_fetches_compressed_keys_once_that_costs_less():
    short, long = (named(TWO, Layout(batch=1, sequence=sequence, tp=8), 0) for sequence in (8192, 131072))
    masked = short["forward", "attention core, masked"]
    assert masked.flops == 2 * 8192 * 4096 * 8 * 320
    sparse = long["forward", "attention core, sparse"]
    keys = seen(TWO.layers[0].attention, 131072)
    assert sparse.flops == 2 * 131072 * keys * 8 * (512 + 64 + 512)
    # Every query reads its own keys, 576 numbers each, whatever share of the heads is here.
    assert sparse.bytes > 2 * 131072 * keys * 576
    assert ("forward", "attention core, sparse") not in short


def test_indexers_score_everything_for_their_own_tokens():
    found = named(TWO, Layout(batch=1, sequence=131072, tp=8, cp=4), 0)
    own = 131072 / 32
    assert found["forward", "index scoring"].flops == own * 65536 * 2 * 32 * 128
    assert found["forward", "choice of keys"].bytes > own * 65536 * 8
    # It learns on chosen keys only.
    assert found["backward", "index loss"].flops < found["forward", "index scoring"].flops / 2
    # No gradient flows to what it is given.
    assert ("backward", "index queries, rows") not in found and ("backward", "index queries, weights") in found


def test_ends():
    layout = Layout(pp=2, tp=2, batch=2, sequence=4096, recompute="none")
    first, last = ({group.name for _, group in stage_kernels(TWO, layout, stage)} for stage in range(2))
    assert first == {"embedding", "layer of kind 0"} and last == {"layer of kind 0", "end"}
    lookup = named(TWO, layout, 0)["forward", "n-gram rows"]
    assert lookup.kind == "lookup" and lookup.bytes == 4096 / 2 * 16 * 512 * 2 * 2
    logits = named(TWO, layout, 1)["forward", "logits"]
    assert (logits.rows, logits.inner, logits.columns) == (4096, 8192, 163840 / 2)
    assert named(gpt(512, 8, 4), Layout(batch=1, sequence=512))["forward", "positions"].flops == 0


def test_narrow_products_move_fewer_bytes_and_round_first():
    wide, narrow = (
        named(DEEPSEEK_V3, Layout(batch=1, sequence=4096, precision=precision)) for precision in ("bf16", "fp8")
    )
    up = narrow["forward", "query up"]
    assert up.dtype == "fp8" and up.flops == wide["forward", "query up"].flops
    assert up.bytes < wide["forward", "query up"].bytes
    assert narrow["forward", "query up, rounding"].bytes == 3 * 4096 * 1536
    for name in ("attention core", "logits", "router"):
        assert narrow["forward", name] == wide["forward", name]
    single = named(LLAMA_70B, Layout(batch=1, sequence=512, precision="fp32"))
    double = named(LLAMA_70B, Layout(batch=1, sequence=512))
    for key in (("forward", "norm before attention"), ("forward", "attention core"), ("forward", "output")):
        assert single[key].bytes == 2 * double[key].bytes and single[key].dtype == "fp32"


def test_layouts_that_execute_the_same_share_kernels():
    """What is known of one object, such as its time, holds for every layout that has it."""
    one, other = (Layout(pp=pp, dp=dp, batch=64, sequence=8192) for pp, dp in ((4, 2), (2, 8)))
    shared = {id(group) for _, group in stage_kernels(LLAMA_70B, one, 1)}
    assert shared & {id(group) for _, group in stage_kernels(LLAMA_70B, other, 1)}


def test_parts_of_a_stage_add_up():
    layout = Layout(pp=2, parts=2, batch=4, sequence=4096)
    from homegrown.plan.parts import parts_of

    parts: list[tuple[int, object]] = []
    shape: Shape = DEEPSEEK_V3
    for part in parts_of(shape, layout, 1):
        parts += part_kernels(shape, layout, part)
    assert tuple(parts) == stage_kernels(shape, layout, 1)
