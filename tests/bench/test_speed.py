"""Prefill, decode and kernels on models of no size: everything runs for real, only the limits are made up."""

import math
from dataclasses import replace

import pytest
import torch

from homegrown import hub, ops
from homegrown.bench import shapes
from homegrown.bench.peer import PEER
from homegrown.bench.record import Spread, write
from homegrown.bench.speed import models as contestants
from homegrown.bench.speed.calls import calls
from homegrown.bench.speed.decode import DecodePlan, count_decode, run_decode
from homegrown.bench.speed.kernels import KernelPlan, count_kernels, run_kernels
from homegrown.bench.speed.limits import Limits, floor, read_bandwidth
from homegrown.bench.speed.long import count_long, run_long
from homegrown.bench.speed.models import MismatchError, ours
from homegrown.bench.speed.prefill import PrefillPlan, count_prefill, run_prefill
from homegrown.bench.speed.record import OURS, read_speed
from homegrown.bench.speed.sequences import Keys, experts_chosen
from homegrown.bench.speed.show import summary, table
from homegrown.bench.speed.work import Chosen, chosen, decode_work, prefill_work, weights_of
from homegrown.config import NgramConfig, SparseConfig, UsageError
from homegrown.config.model import MtpConfig
from homegrown.model import Longcat, count, training_flops
from homegrown.model.router import Routing
from homegrown.tokenizer import train_tokenizer

from .test_bench_train import MICRO

CPU = torch.device("cpu")
SPARSE = replace(
    MICRO.model,
    ngram=NgramConfig(order=2, splits=2, ratio=2.0),
    sparse=SparseConfig(topk=16, heads=2, head_dim=8, init_tokens=1, local_tokens=4),
    mtp=MtpConfig(layers=1, steps=2),
)


class NoLimits(Limits):
    """How limits are measured is tested apart; here they only have to be there."""

    def __init__(self):
        self.values = {}
        self.turns = {
            name: lambda name=name: self._take(name) for name in ("multiply float32", "multiply bfloat16", "read")
        }

    def _take(self, name):
        self.values.setdefault(name, []).append(1e9)


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "micro", lambda: MICRO)
    monkeypatch.setitem(shapes.SHAPES, "micro-sparse", lambda: replace(MICRO, model=SPARSE))


def micro_model(config=MICRO.model):
    model = Longcat(config)
    model.init_weights(0)
    return model.eval()


def checked(record, labels, count, tmp_path):
    """What is true of every record."""
    path = tmp_path / "record.json"
    write(record, path)
    assert read_speed(path) == record
    assert len(labels) <= count
    assert len({(entry.case, entry.implementation, entry.mode) for entry in record.entries}) == len(record.entries)
    for entry in record.entries:
        assert len(entry.seconds.values) == record.repetitions
        if entry.floor is not None:
            assert entry.share == pytest.approx(entry.floor.seconds / entry.seconds.median)
    assert table(record).row_count >= len(record.entries)
    assert summary(record)
    return {(entry.case, entry.implementation, entry.mode): entry for entry in record.entries}


def test_prefill_with_the_peer(tmp_path):
    pytest.importorskip("transformers")
    labels = []
    plan = PrefillPlan(
        shape="micro", tokens=(7, 20), chunk=8, precisions=("float32", "bfloat16", "int8"), repetitions=2
    )
    record = run_prefill(plan, CPU, ["bench", "prefill"], labels.append, limits=NoLimits())
    entries = checked(record, labels, count_prefill(plan), tmp_path)
    assert len(labels) == count_prefill(plan)
    assert record.kind == "prefill"
    assert set(entries) == {
        (case, who, mode)
        for case in ("7 tokens", "20 tokens")
        for who, mode in [
            (OURS, "float32"), (OURS, "bfloat16"), (OURS, "int8"), (PEER, "float32"), (PEER, "bfloat16"),
        ]
    }  # fmt: skip
    assert entries["20 tokens", PEER, "float32"].difference < 1e-4
    assert 0 < entries["20 tokens", OURS, "int8"].difference < 0.2
    ratios = {(found.case, found.homegrown): found for found in record.versus}
    ours_, theirs = entries["7 tokens", OURS, "int8"], ratios["7 tokens", "int8"].peer.removeprefix(f"{PEER} ")
    peer = entries["7 tokens", PEER, theirs]
    shown = [str(cell) for cell in table(record).columns[5].cells if cell]
    assert len(shown) == len(record.versus)
    assert ratios["7 tokens", "int8"].ratio == pytest.approx(peer.seconds.median / ours_.seconds.median)


def test_decode_with_the_peer(tmp_path):
    pytest.importorskip("transformers")
    labels = []
    plan = DecodePlan(shape="micro", batches=(1, 3), contexts=(5, 40), peer_keys=100, steps=3, repetitions=2)
    record = run_decode(plan, CPU, ["bench", "decode"], labels.append, limits=NoLimits())
    entries = checked(record, labels, count_decode(plan), tmp_path)
    assert len(labels) == count_decode(plan)
    assert ("batch 1, context 40", OURS, "float32, alone") in entries
    assert ("batch 3, context 5", OURS, "float32, alone") not in entries
    assert ("batch 3, context 40", PEER, "float32") not in entries
    for (_, who, mode), entry in entries.items():
        assert entry.difference < (1e-4 if mode.startswith("float32") else 0.2), (who, mode)
        assert entry.tokens_per_s == pytest.approx(entry.sizes["batch"] / entry.seconds.median)
    wide, narrow = (entries["batch 1, context 5", OURS, f"{mode}, served"].floor.bytes for mode in ("float32", "int8"))
    assert 1.5 < wide / narrow < 4


def test_decode_of_sparse_attention_alone_and_served_agree(tmp_path):
    plan = DecodePlan(
        shape="micro-sparse",
        batches=(1, 2),
        contexts=(3, 40),
        precisions=("float32",),
        peer=False,
        steps=2,
        repetitions=1,
    )
    labels = []
    record = run_decode(plan, CPU, tick=labels.append, limits=NoLimits())
    entries = checked(record, labels, count_decode(plan), tmp_path)
    assert entries["batch 1, context 40", OURS, "float32, alone"].difference < 1e-5


def test_most_keys_leaves_cases_out():
    assert DecodePlan(batches=(1, 8), contexts=(10, 100), most_keys=100).cases == [(1, 10), (8, 10), (1, 100)]


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_a_peer_that_computes_something_else_is_refused(monkeypatch, kind):
    pytest.importorskip("transformers")
    build = contestants.build_peer

    def other(model):
        peer = build(model)
        with torch.no_grad():
            peer.model.norm.weight[0] += 3
        return peer

    monkeypatch.setattr(contestants, "build_peer", other)
    with pytest.raises(MismatchError, match="compute different functions"):
        if kind == "prefill":
            run_prefill(PrefillPlan(shape="micro", tokens=(5,)), CPU, limits=NoLimits())
        else:
            run_decode(DecodePlan(shape="micro", batches=(1,), contexts=(5,)), CPU, limits=NoLimits())


def test_a_trained_model_shows_what_drafts_are_worth(tmp_path):
    model = micro_model(replace(SPARSE, vocab_size=300, max_position_embeddings=128))
    tokenizer = train_tokenizer(["def read(path):\n    return path\n" * 20], 300)
    hub.save(model, tokenizer, tmp_path / "model")
    plan = DecodePlan(
        model=tmp_path / "model", batches=(1,), contexts=(5,), precisions=("float32",), peer=False, repetitions=1
    )
    record = run_decode(plan, CPU, limits=NoLimits())
    modes = {entry.mode: entry for entry in record.entries if entry.case == "64 tokens of text"}
    assert set(modes) == {"float32, plain", "float32, speculating"}
    assert 0 <= modes["float32, speculating"].extra["acceptance"] <= 1
    assert modes["float32, speculating"].extra["tokens_per_pass"] >= 1
    with pytest.raises(UsageError, match="reads 128 tokens at most"):
        run_decode(replace(plan, contexts=(128,)), CPU, limits=NoLimits())


def test_a_long_prompt(tmp_path):
    labels = []
    plan = PrefillPlan(
        shape="micro-sparse", tokens=(20, 50), chunk=16, precisions=("float32", "bfloat16"), peer=False, repetitions=2
    )
    record = run_long(plan, CPU, ["bench", "prefill", "--long"], labels.append, limits=NoLimits())
    entries = checked(record, labels, count_long(plan) + 8, tmp_path)
    short, whole = (entries[f"{tokens} tokens", OURS, "float32"] for tokens in (20, 50))
    assert all(a < b for a, b in zip(short.seconds.values, whole.seconds.values, strict=True))
    assert 0 < whole.extra["indexer_share"] < 1
    assert whole.extra["peak_memory_bytes"] >= short.extra["peak_memory_bytes"] > 1e6
    assert whole.extra["ms_per_token"] == pytest.approx(whole.seconds.median / 50 * 1e3)
    assert record.kind == "prefill-long"
    assert ops.table()["select"] == "reference"


def test_every_op_is_measured_in_every_implementation(tmp_path):
    assert {call.op for call in calls(MICRO.model, 9, torch.float32, CPU)} == set(ops.OPS)
    labels = []
    plan = KernelPlan(shape="micro", tokens=24, least_seconds=1e-4, repetitions=2, warmup=0)
    record = run_kernels(plan, CPU, ["bench", "kernels"], labels.append, limits=NoLimits())
    entries = checked(record, labels, count_kernels(plan), tmp_path)
    for name, op in ops.OPS.items():
        for implementation in op.implementations:
            for dtype, most in (("float32", 1e-4), ("bfloat16", 0.1)):
                found = entries[f"{name}, {dtype}, forward", OURS, implementation].difference
                assert (found is None) == (name == "select")
                assert found is None or found < most, (name, implementation)
    assert ("experts, float32, forward and backward", OURS, "sorted") in entries
    assert ops.table()["experts"] == "sorted"


def test_one_op_alone_and_an_unknown_one():
    record = run_kernels(
        KernelPlan(
            shape="micro", tokens=4, ops=("swiglu",), dtypes=(torch.float32,), least_seconds=1e-4, repetitions=1
        ),
        CPU,
        limits=NoLimits(),
    )
    assert {entry.case for entry in record.entries} == {
        "swiglu, float32, forward",
        "swiglu, float32, forward and backward",
    }
    with pytest.raises(UsageError, match="no op 'swish'; there are: attention"):
        run_kernels(KernelPlan(shape="micro", ops=("swish",)), CPU, limits=NoLimits())


# Floors


def test_the_floor_is_the_longer_of_the_two():
    limits = {"multiply float32": Spread.of([50.0, 100.0]), "read": Spread.of([10.0])}
    compute = floor(1000, 50, torch.float32, limits)
    assert (compute.seconds, compute.bound, compute.peak) == (10.0, "compute", "multiply float32")
    memory = floor(1000, 500, torch.float32, limits)
    assert (memory.seconds, memory.bound) == (50.0, "memory")


def test_limits_are_measured():
    limits = Limits(CPU, (torch.float32,), buffer=1 << 16, seconds=0.001)
    limits.turns["read"]()
    assert limits.values["read"][0] > 1e6
    assert read_bandwidth(torch.ones(1 << 12), 0.0) > 1e6


def test_bytes_of_weights_by_a_hand_count():
    """All of a model without its embedding, experts apart."""
    model = micro_model()
    weights = weights_of(model)
    total = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert weights.expert == 3 * 32 * 16 * 4
    assert weights.row == 32 * 4
    assert weights.always == total - 4 * weights.expert - 64 * weights.row
    eight = weights_of(ours(model, ("int8",))["int8"])
    assert 3 * 32 * 16 < eight.expert < 2 * 3 * 32 * 16


def test_experts_are_counted_once_each():
    """Of two layers: 4 real experts; numbers from 4 up are zero experts."""
    layers = [
        Routing(torch.tensor(index), torch.zeros(0), torch.zeros(0), torch.zeros(0))
        for index in ([[0, 1], [1, 4]], [[5, 4], [3, 5]])
    ]
    assert chosen(MICRO.model, layers) == Chosen(distinct=3, per_token=1.0)


def test_experts_of_a_batch_are_those_of_its_step():
    model = micro_model(SPARSE)
    keys = Keys({"float32": model}, [(3, 30)], 2, seed=1)
    used = experts_chosen(model, keys, 3, 30)
    assert 0 < used.distinct <= 4
    assert 0 < used.per_token <= 2


def test_decode_floor_grows_by_the_keys_that_are_seen():
    model = micro_model()
    weights, used = weights_of(model), Chosen(3, 1.5)
    short, far = (decode_work(MICRO.model, weights, 2, context, used, torch.float32) for context in (10, 11))
    assert far.bytes - short.bytes == 2 * 2 * (16 + 8) * 4
    assert far.flops - short.flops == 2 * 2 * 2 * 2 * (2 * 16 + 8)
    sparse = replace(MICRO.model, sparse=SPARSE.sparse)
    seen = decode_work(sparse, weights, 1, 100, used, torch.float32)
    more = decode_work(sparse, weights, 1, 101, used, torch.float32)
    assert more.bytes - seen.bytes == 8 * 4  # one index key of the one owner


def test_prefill_floor_against_the_training_formula():
    """A third of forward and backward, but for the unembedding, which only the last token needs."""
    weights, used = weights_of(micro_model()), Chosen(4, 1.5)
    work = prefill_work(MICRO.model, weights, 100, used)
    whole = training_flops(MICRO.model, count(MICRO.model), 100, 101, 1.5) / 3
    assert work.flops == pytest.approx(whole - 99 * 2 * 64 * 32)
    budget = replace(MICRO.model, sparse=SPARSE.sparse)
    assert not math.isclose(prefill_work(budget, weights, 100, used).flops, work.flops)
