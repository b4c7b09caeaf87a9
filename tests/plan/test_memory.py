"""Memory of the fullest device: published figures, first principles, and speed."""

import dataclasses
import time

import pytest

from homegrown.plan.layout import Layout
from homegrown.plan.memory import Overheads, memory, stage_memory
from homegrown.plan.shapes import parameters, preset_shape
from homegrown.plan.states import Rules, held_on, states
from tests.plan.published import DEEPSEEK_V3, KORTHIKANTI, LLAMA_405B, gpt

TWO = preset_shape("longcat-2.0")
GIB = 2**30
NOTHING = Overheads(reserve=0.0, waste=0.0, group=0.0, peer=0.0, direct=1.0, bucket=0.0)
TABLE = {
    # model: stages, parts, batch, micro-batch; GiB of activations with nothing recomputed, with sequence parallelism
    # and selective recomputation; of parameters and optimizer (arXiv 2205.05198 tables 3 and figures 1 and 7)
    "22B": (1, 1, 4, 4, 59.25, 9.56, 45.56),
    "175B": (8, 3, 64, 1, 66.84, 12.35, 45.56),
    "530B": (35, 3, 280, 1, 114.0, 23.1, 31.64),
    "1T": (64, 1, 512, 1, 131.25, 26.56, 32.96),
}


@pytest.mark.parametrize("name", TABLE)
def test_published_memory_of_dense_models(name):
    """Calculon's mean errors on this table are 2.1 % of activations and 8.5 % of parameters and optimizer."""
    pp, parts, batch, micro, plain, lean, static = TABLE[name]
    layout = Layout(
        tp=8, pp=pp, parts=parts, batch=batch, micro_batch=micro, sequence=2048, fused=False, zero=0, recompute="none",
        sequence_parallel=False,
    )  # fmt: skip
    found = memory(KORTHIKANTI[name], layout).parts
    assert found["activations"] / GIB == pytest.approx(plain, rel=1e-3)
    assert (found["weights"] + found["gradients"] + found["optimizer"]) / GIB == pytest.approx(static, rel=1e-3)
    layout = dataclasses.replace(layout, recompute="selective", sequence_parallel=True)
    assert memory(KORTHIKANTI[name], layout).parts["activations"] / GIB == pytest.approx(lean, rel=2e-3)


def test_eighteen_bytes_a_parameter_and_six_with_the_rest_shared_out():
    """2 of weights, 4 of gradients, 12 of AdamW; with ZeRO-1 6 + 12 / dp (arXiv 1910.02054; Megatron's rule)."""
    shape = gpt(1024, 16, 8)
    numbers = parameters(shape).total
    for dp in (1, 16):
        for zero, each in ((0, 18), (1, 6 + 12 / dp)):
            parts = memory(shape, Layout(dp=dp, batch=dp, sequence=128, zero=zero), NOTHING).parts
            static = sum(parts[name] for name in ("weights", "gradients", "optimizer", "embedding and head"))
            assert static == pytest.approx(numbers * each, rel=1e-12)


def static_bytes(shape, layout):
    """Weights, gradients and optimizer of all devices together."""
    whole = [0.0, 0.0, 0.0]
    for stage in range(layout.pp):
        for state in states(held_on(shape, layout, stage), layout, Rules(), 1e30):
            whole = [total + layout.dp * layout.cp * layout.tp * more for total, more in zip(whole, state, strict=True)]
    return whole


@pytest.mark.parametrize(
    "layout",
    [
        Layout(batch=8, sequence=128),
        Layout(pp=2, dp=8, ep=8, embp=8, batch=8, sequence=128),
        Layout(pp=2, dp=2, cp=2, tp=4, ep=4, etp=2, embp=4, batch=8, sequence=128),
    ],
)
def test_optimizer_state_is_there_once(layout):
    """Whatever the layout: 12 bytes for every number of the model, 8 for those that Muon trains."""
    shape = dataclasses.replace(TWO, ngram_rows=1 << 20)
    counted = parameters(shape)
    numbers = counted.total + counted.draft
    assert static_bytes(shape, layout)[2] == pytest.approx(12 * numbers, rel=1e-9)
    muon = static_bytes(shape, dataclasses.replace(layout, optimizer="muon"))[2]
    parts = counted.by_component
    plain = ("word embedding", "head", "n-gram tables", "norms", "router", "indexer")
    matrices = numbers - sum(parts[part] for part in plain) - (7_602_304 + 5 * 8192)
    matrices -= 77 * (1536 + 512)  # norms of latents
    assert muon == pytest.approx(12 * numbers - 4 * matrices, rel=0.01)


def test_a_matrix_has_one_owner():
    """Among very many ranks the owner of the largest matrix has more than the mean."""
    layout = Layout(pp=2, dp=4096, batch=4096, sequence=128, optimizer="muon")
    held = held_on(TWO, layout, 0)
    owned = states(held, layout, Rules())
    assert owned.layers.optimizer > 8 * 8192 * 12288
    # Experts' matrices are at more owners than there are of them, too.
    assert owned.experts.optimizer == pytest.approx(8 * held.layers[0] * 3 * 768 * 2048 * 8192 / 4096, rel=1e-3)
    many = dataclasses.replace(layout, ep=256, dp=1 << 16, batch=1 << 16)
    assert states(held_on(TWO, many, 0), many, Rules()).experts.optimizer == pytest.approx(8 * 2048 * 8192, rel=1e-3)


def test_each_kind_of_parameter_is_cut_its_own_way():
    layout = Layout(dp=8, batch=8, sequence=128)
    base = states(held_on(TWO, layout, 0), layout, Rules())
    by_experts = states(held_on(TWO, layout, 0), dataclasses.replace(layout, ep=8), Rules())
    assert by_experts.experts.weights == base.experts.weights / 8
    assert by_experts.layers == base.layers and by_experts.experts.optimizer == base.experts.optimizer
    by_tables = states(held_on(TWO, layout, 0), dataclasses.replace(layout, embp=8), Rules())
    assert by_tables.tables.weights == base.tables.weights / 8 == 2 * TWO.ngram_rows * TWO.ngram_width / 8
    tensor = Layout(tp=8, batch=8, sequence=128)
    cut = states(held_on(TWO, tensor, 0), tensor, Rules())
    assert cut.ends.weights == base.ends.weights / 8
    assert base.layers.weights / 8 < cut.layers.weights < base.layers.weights / 3
    keys = dataclasses.replace(LLAMA_405B.layers[0].attention, kv_heads=2)
    few = dataclasses.replace(LLAMA_405B, layers=(dataclasses.replace(LLAMA_405B.layers[0], attention=keys),))
    one, eight = (states(held_on(few, lay, 0), lay, Rules()).layers.weights for lay in (layout, tensor))
    # Two key heads cannot be cut in eight: four devices have each.
    assert eight - one / 8 == pytest.approx(126 * 2 * (2 * 16384 * 256 * (1 / 2 - 1 / 8) + 2 * 16384 * 7 / 8), rel=1e-3)


def test_the_fullest_stage_is_found():
    """The first has most activations, the last the head: memory is the larger one's."""
    layout = Layout(tp=8, pp=16, dp=4, batch=128, sequence=8192, recompute="none")
    every = stage_memory(LLAMA_405B, layout)
    assert set(every) == {0, 1, 15}
    assert memory(LLAMA_405B, layout) == max(every.values(), key=lambda found: found.total)
    assert every[0].parts["activations"] > every[15].parts["activations"]
    assert "ends' activations" in every[15].parts and every[1].parts.get("embedding and head", 0) == 0


def test_dual_pipe_keeps_two_copies():
    """DeepSeek-V3 in 16 stages of 64 expert ranks, moments in bfloat16, fits 80 GB (arXiv 2412.19437 section 3)."""
    layout = Layout(
        pp=16, dp=128, ep=64, batch=15360, sequence=4096, schedule="dual", precision="fp8", recompute="selective"
    )
    plain = dataclasses.replace(layout, schedule="1f1b")
    both, single = (stage_memory(DEEPSEEK_V3, one) for one in (layout, plain))
    assert both[1].parts["expert weights"] == 2 * single[1].parts["expert weights"]
    assert both[1].parts["expert optimizer"] == single[1].parts["expert optimizer"]
    assert both[1].parts["activations"] == pytest.approx(single[1].parts["activations"] * 17 / 15)
    halved = dataclasses.replace(Overheads.at(), rules=Rules(moment=2.0))
    assert 60e9 < memory(DEEPSEEK_V3, layout, halved).total < 80e9


def test_recomputation_offload_and_balance():
    layout = Layout(tp=8, pp=8, dp=64, ep=64, embp=64, batch=1024, sequence=8192, optimizer="muon")
    found = {
        kind: memory(TWO, dataclasses.replace(layout, recompute=kind)).total for kind in ("none", "selective", "full")
    }
    assert found["full"] < found["selective"] < found["none"]
    here, away = memory(TWO, layout), memory(TWO, dataclasses.replace(layout, offload=True))
    assert here.host == 0 < away.host and "optimizer" not in away.parts
    assert here.total - away.total == pytest.approx(away.host, rel=0.2)
    assert "experts' slack" in here.parts
    assert "experts' slack" not in memory(TWO, dataclasses.replace(layout, balanced=True)).parts
    uneven = memory(TWO, layout, Overheads.at(skew=0.3)).parts["experts' slack"]
    assert uneven > 2 * here.parts["experts' slack"]


def test_buffers_of_communication_grow_to_gigabytes():
    one = memory(TWO, Layout(batch=1, sequence=128, recompute="full"))
    assert "communication" not in one.parts
    large = Layout(tp=8, pp=8, dp=768, ep=256, embp=2048, batch=12288, sequence=8192)
    assert 4e9 < memory(TWO, large).parts["communication"] < 12e9


def test_it_takes_less_than_a_hundred_microseconds():
    """Layouts that differ in what a search varies; the fastest of several rounds, since other work runs here."""
    layouts = [
        Layout(tp=tp, pp=pp, dp=dp, ep=ep, embp=embp, batch=6144, sequence=8192, optimizer="muon")
        for tp in (1, 8) for pp in (4, 8) for dp in (96, 192) for ep in (32, 96) for embp in (32, 96)
    ]  # fmt: skip

    def seconds():
        started = time.perf_counter()
        for layout in layouts:
            memory(TWO, layout)
        return (time.perf_counter() - started) / len(layouts)

    seconds()
    assert min(seconds() for _ in range(5)) < 100e-6
