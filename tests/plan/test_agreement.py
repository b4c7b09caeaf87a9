"""The planner's arithmetic against the real code: a dry run of training builds the job and takes its step, and nothing
of it is a formula."""

import dataclasses
import importlib
from collections import Counter
from pathlib import Path

import pytest

from homegrown.config import DataConfig, MtpConfig, NgramConfig, ParallelConfig, SparseConfig
from homegrown.parallel.layout import settle
from homegrown.plan.activations import layer_saved
from homegrown.plan.kernel import cut_of
from homegrown.plan.kernels import stage_kernels
from homegrown.plan.layout import Layout
from homegrown.plan.shapes import shape_of
from homegrown.plan.states import Rules, held_on, states
from homegrown.train.dryrun.job import rehearse
from tests.train import tiny

SEQUENCE, BATCH = 128, 4
MODEL = tiny.model_config(
    hidden_size=64, num_attention_heads=4, q_lora_rank=32, kv_lora_rank=48, qk_nope_head_dim=16, qk_rope_head_dim=8,
    v_head_dim=16, ffn_hidden_size=128, expert_ffn_hidden_size=32, vocab_size=512, n_routed_experts=12,
    zero_expert_num=4, moe_topk=4, sparse=SparseConfig(topk=64, heads=4, head_dim=16, init_tokens=4, local_tokens=16),
)  # fmt: skip
LAYOUTS = {
    "one": (1, ParallelConfig()),
    "stages and experts": (4, ParallelConfig(pp=2, ep=2)),
    "context and tensors": (4, ParallelConfig(cp=2, tp=2, ep=2)),
}
RANKS = {"one": (0,), "stages and experts": (0, 1, 2, 3), "context and tensors": (3,)}


def configured(model, parallel, sequence, batch, recompute="none"):
    return tiny.replaced(
        tiny.train_config(Path("unused")), model=model, parallel=parallel, recompute=recompute, precision="bfloat16",
        data=DataConfig(path=Path("unused"), seq_len=sequence, global_batch=batch, micro_batch=1),
    )  # fmt: skip


def planned(layout, sequence, batch, recompute="none"):
    """The planner's words for a layout of the real code."""
    same = {name: getattr(layout, name) for name in ("pp", "dp", "cp", "tp", "ep", "embp", "parts")}
    return Layout(
        **same, batch=batch, sequence=sequence, optimizer="muon", recompute=recompute, layers=layout.part_layers
    )


@pytest.fixture(scope="module")
def rehearsed():
    found = {}
    for name, (world, parallel) in LAYOUTS.items():
        config = configured(MODEL, parallel, SEQUENCE, BATCH)
        layout = settle(config.parallel, world, config.model, config.data)
        found[name] = [rehearse(config, layout, rank) for rank in RANKS[name]]
    return found


def owned(done):
    layout = planned(done.layout, SEQUENCE, BATCH)
    return states(held_on(shape_of(MODEL), layout, done.layout.place(done.rank).pp), layout, Rules())


def of_kind(uses, kind):
    return Counter({use.component: size for use, size in uses.items() if use.kind == kind})


@pytest.mark.parametrize("name", LAYOUTS)
def test_parameters_take_the_same_bytes(rehearsed, name):
    for done in rehearsed[name]:
        real = of_kind(done.resting, "parameters")
        plan = owned(done)
        assert sum(state.weights for state in plan) == real.total()
        assert (plan.experts.weights, plan.tables.weights) == (real["experts"], real["n-gram tables"])
        assert plan.ends.weights == real["word embedding"] + real["head"]


@pytest.mark.parametrize(("name", "within"), [("one", 3e-3), ("stages and experts", 1e-3)])
def test_optimizers_take_the_same_bytes(rehearsed, name, within):
    """Over all ranks: so few pieces cannot be dealt out evenly. The real code counts steps in four bytes a tensor, the
    planner the routers' correction biases, which have no state; and alone, a float32 weight is its own master."""
    real = sum(of_kind(done.resting, "optimizer").total() for done in rehearsed[name])
    plan = sum(state.optimizer for done in rehearsed[name] for state in owned(done))
    assert plan == pytest.approx(real, rel=within)


@pytest.mark.parametrize("name", ["one", "context and tensors"])
def test_gradients_take_half_as_much_again(rehearsed, name):
    """The planner has float32 sums. The real code, at its peak with four micro-batches, has sums of two and the third's
    own gradients, in the weights' two bytes. (Of more, it keeps partial sums, so that their order is always the same.)
    Gradients of n-gram rows depend on how many differ."""
    done = rehearsed[name][0]
    real = of_kind(done.at_peak, "gradients")
    plan = owned(done)
    assert 1.5 * plan.experts.gradients == real["experts"]
    rest = real.total() - real["experts"] - real["n-gram tables"]
    # Routers' correction biases have none, and their weights' are always float32.
    assert 1.5 * (plan.layers.gradients + plan.ends.gradients) == pytest.approx(rest, rel=0.01)


PRODUCTS = {
    # component of the real code: the planner's
    "n-gram tables": "n-gram projections",
    "attention": "attention",
    "indexer": "indexer",
    "router": "router",
    "dense feed-forward": "dense feed-forward",
    "experts": "experts",
}


def planned_products(done):
    """FLOPs of products with weights in a step of a rank, by phase and component."""
    layout = planned(done.layout, SEQUENCE, BATCH)
    found = Counter()
    for count, group in stage_kernels(shape_of(MODEL), layout, done.layout.place(done.rank).pp):
        for phase, kernels in (("forward", group.forward), ("backward", group.backward)):
            for kernel in kernels:
                # Context parallelism gathers compressed keys and expands all of them on every rank; the planner, which
                # does not know how keys travel, expands each once.
                times = layout.cp if kernel.name.startswith("key-value up") else 1
                if kernel.kind == "matmul":
                    found[phase, kernel.part] += times * layout.micro_batches * count * kernel.flops
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_products_with_weights_take_the_same_work(rehearsed, name):
    """Exactly, but for experts: the real code computes a row that stands for none, and whole pairs."""
    for done in rehearsed[name]:
        plan, real = planned_products(done), Counter()
        for (use, op), flops in done.flops.items():
            if op in ("mm", "linear_cross_entropy"):
                real[use.kind, use.component] += flops
        for theirs, ours in PRODUCTS.items():
            for phase in ("forward", "backward"):
                within = 0.1 if ours == "experts" else 1e-12
                assert plan[phase, ours] == pytest.approx(real[phase, theirs], rel=within), (phase, ours)
        # The real head makes its gradients in the forward pass.
        both = [(phase, part) for phase in ("forward", "backward") for part in ("head", "draft head")]
        assert sum(plan[key] for key in both) == pytest.approx(sum(real[key] for key in both), rel=1e-12)


def test_attention_sees_whole_chunks(rehearsed):
    """The reference attention computes every pair of a chunk of 128: of one chunk, twice the causal half. Its indexer
    weighs every score by its head, one operation for the width of a head."""
    (done,) = rehearsed["one"]
    real = Counter()
    for (use, op), flops in done.flops.items():
        real[use.kind, use.component, op] += flops
    kernels = Counter()
    for count, group in stage_kernels(shape_of(MODEL), planned(done.layout, SEQUENCE, BATCH), 0):
        for kernel in group.forward:
            if kernel.part in ("attention", "indexer"):
                kernels[kernel.name] += count * BATCH * kernel.flops
    assert real["forward", "attention", "attention"] == 2 * kernels["attention core, masked"]
    assert real["forward", "indexer", "select"] == 2 * kernels["index scoring"] * (1 + 1 / 16)


# What is kept


@pytest.fixture(scope="module")
def kept():
    """One layer in the proportions of LongCat-2.0, of which a micro-batch of 256 tokens keeps so many bytes. So few
    probabilities would be kept for speed; the planner's attention keeps none."""
    model = dataclasses.replace(
        MODEL, hidden_size=1024, num_layers=1, num_attention_heads=8, q_lora_rank=192, kv_lora_rank=64,
        qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, ffn_hidden_size=1536, expert_ffn_hidden_size=256,
        n_routed_experts=48, zero_expert_num=8, moe_topk=12, ngram=NgramConfig(), mtp=MtpConfig(),
        sparse=SparseConfig(topk=64, heads=4, head_dim=128, init_tokens=4, local_tokens=16),
    )  # fmt: skip
    found = {}
    for recompute in ("none", "selective"):
        config = configured(model, ParallelConfig(), 256, 1, recompute)
        layout = settle(config.parallel, 1, config.model, config.data)
        shape = shape_of(model)
        plan: Counter[tuple[str, str]] = Counter()
        for tensor in layer_saved(shape, shape.layers[0], cut_of(planned(layout, 256, 1, recompute))):
            if recompute == "none" or tensor.fate != "again":
                plan[tensor.part, tensor.name] += tensor.bytes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.import_module("homegrown.ops.attention"), "KEPT_PROBS", 0)
            found[recompute] = (plan, rehearse(config, layout, 0).kept)
    return found


def of_part(plan, part):
    return sum(size for (component, _), size in plan.items() if component == part)


def test_layers_keep_what_the_planner_says_part_by_part(kept):
    plan, real = kept["none"]
    assert of_part(plan, "dense feed-forward") == real["dense feed-forward"]
    assert of_part(plan, "router") == pytest.approx(real["router"], rel=0.03)
    # The real code makes an expert's gated product again whatever is asked, and keeps numbers for sorting.
    assert of_part(plan, "experts") - plan["experts", "activation"] == pytest.approx(real["experts"], rel=0.03)
    # Values are a view of the expansion that keys are laid out from, so that its other half stays, too. What a norm
    # made counts as the norm's there.
    attention = of_part(plan, "attention") - plan["attention", "normed input"]
    assert attention + 2 * 2 * 256 * 8 * 128 == pytest.approx(real["attention"], rel=0.02)


def test_selective_recomputation_keeps_more_queries_than_planned(kept):
    """Published programs expand queries again (arXiv 2412.19437 section 3.2.3); the real code keeps them."""
    plan, real = kept["selective"]
    assert of_part(plan, "dense feed-forward") == real["dense feed-forward"]
    queries = 2 * 2 * 256 * 8 * 192
    assert of_part(plan, "attention") + queries == pytest.approx(real["attention"], rel=0.12)
