import re
from dataclasses import replace

import msgspec
import pytest
import torch

from homegrown.bench import train as module
from homegrown.bench.record import Record, Spread, commit, default_path, read, write
from homegrown.bench.shapes import SHAPES, Shape, plain, shape
from homegrown.bench.show import summary, table
from homegrown.bench.train import MismatchError, TrainPlan, check_agreement, run_train, turns
from homegrown.config import ConfigError, ModelConfig, NgramConfig, UserError
from homegrown.model import Longcat, count
from homegrown.model.count import training_flops

MICRO = Shape(
    "micro",
    plain(
        ModelConfig(
            vocab_size=64,
            hidden_size=32,
            num_layers=1,
            num_attention_heads=2,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            ffn_hidden_size=48,
            expert_ffn_hidden_size=16,
            n_routed_experts=4,
            zero_expert_num=2,
            moe_topk=2,
            max_position_embeddings=64,
        )
    ),
    batch=2,
    seq_len=16,
)
CPU = torch.device("cpu")


def no_peak(device, dtype, seconds):
    """How the peak is measured is the device room's to test; here it only has to be there."""
    return 1e9 * dtype.itemsize


@pytest.fixture(autouse=True)
def quick_peak(monkeypatch):
    monkeypatch.setattr(module.devices, "measure_peak", no_peak)


@pytest.fixture(scope="module")
def full_run():
    """A plan, its record and the labels it ticked off: the peer included."""
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.devices, "measure_peak", no_peak)
        labels = []
        plan = TrainPlan(shape=MICRO, repetitions=3, warmup=1, optimizer="adamw")
        record = run_train(plan, CPU, ["bench", "train"], labels.append)
    return plan, record, labels


ROUND = [
    "homegrown float32",
    "homegrown bfloat16",
    "transformers float32",
    "transformers autocast",
    "transformers bfloat16",
    "peak float32",
    "peak bfloat16",
]


def test_everything_has_one_turn_a_round(full_run):
    plan, record, labels = full_run
    assert record.order == ROUND * 4
    assert labels[1:] == record.order
    assert len(labels) == turns(plan)


def test_warm_up_is_not_measured(full_run):
    _, record, _ = full_run
    assert [len(entry.seconds.values) for entry in record.entries] == [3] * 5
    assert [len(entry.optimizer_seconds.values) for entry in record.entries] == [3] * 5
    assert [len(peak.values) for peak in record.peaks.values()] == [3, 3]


def test_figures_follow_from_the_measurements(full_run):
    _, record, _ = full_run
    flops = record.flops["per_step"]
    for entry in record.entries:
        peak = record.peaks[entry.peak_dtype].maximum
        assert entry.tokens_per_s == pytest.approx(32 / entry.seconds.median)
        assert entry.peak_share == pytest.approx(entry.floor_seconds / entry.seconds.median)
        assert entry.achieved_flops == pytest.approx(entry.peak_share * peak)
        assert entry.floor_seconds == pytest.approx(flops / peak)
    ours = min(record.entries[:2], key=lambda entry: entry.seconds.median)
    theirs = min(record.entries[2:], key=lambda entry: entry.seconds.median)
    assert (record.comparison.homegrown, record.comparison.peer) == (ours.mode, theirs.mode)
    assert record.processor_comparison.ratio > 0
    assert record.comparison.ratio == pytest.approx(theirs.seconds.median / ours.seconds.median)


def test_both_computed_the_same(full_run):
    _, record, _ = full_run
    losses = [entry.loss for entry in record.entries]
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)
    # bfloat16 keeps 8 bits of each number: about a hundredth of a loss near ln 64.
    assert losses == pytest.approx([losses[0]] * 5, abs=0.05)
    agreement = record.agreement
    assert agreement.gradient_norm == pytest.approx(agreement.peer_gradient_norm, rel=1e-4)


def test_the_record_is_plain_data_that_reads_back(full_run, tmp_path):
    _, record, _ = full_run
    path = tmp_path / "benchmarks/record.json"
    write(record, path)
    assert read(path) == record
    data = msgspec.json.decode(path.read_bytes())
    assert data["shape"]["model"]["hidden_size"] == 32
    assert data["shape"]["parameters"]["total"] == count(MICRO.model).total
    origin = data["origin"]
    assert origin["command"] == "homegrown bench train"
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|", origin["commit"])
    assert set(origin["versions"]) == {"python", "torch", "homegrown", "transformers"}
    assert origin["device"]["type"] == "cpu"
    assert origin["threads"] == torch.get_num_threads()
    with pytest.raises(msgspec.ValidationError, match="entries"):
        msgspec.json.decode(msgspec.json.encode({**data, "entries": 3}), type=Record)


def test_what_is_shown(full_run):
    _, record, _ = full_run
    assert table(record).row_count == 7
    text = summary(record)
    assert "times as fast as the peer's" in text
    assert "same function: loss" in text


def test_a_disturbed_run_says_so(full_run):
    _, record, _ = full_run

    def with_share(share):
        entries = []
        for entry in record.entries:
            got = [second * record.origin.threads * share for second in entry.seconds.values]
            entries.append(replace(entry, processor_seconds=Spread.of(got)))
        return summary(replace(record, entries=entries))

    assert "this process got 50% of its threads' processor time" in with_share(0.5)
    assert "by processor time: homegrown" in with_share(0.5)
    assert "disturbed" not in with_share(0.97)


def test_without_a_peer():
    plan = TrainPlan(shape=MICRO, repetitions=1, warmup=0, peer=False, optimizer="muon")
    labels = []
    record = run_train(plan, CPU, tick=labels.append)
    assert [entry.mode for entry in record.entries] == ["float32", "bfloat16"]
    assert record.agreement is None
    assert record.comparison is None
    assert len(labels) == turns(plan)
    assert "transformers" not in record.origin.versions


def test_timing_changes_no_weight(monkeypatch):
    """Every step, optimizer included, must be the same step, or the last round measures another one than the first."""
    built = []
    make = module._our_contestants
    monkeypatch.setattr(module, "_our_contestants", lambda *args: built.extend(make(*args)) or built)
    run_train(TrainPlan(shape=MICRO, repetitions=2, warmup=0, peer=False, optimizer="adamw"), CPU)
    fresh = Longcat(MICRO.model)
    fresh.init_weights(0)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), built[0].model.parameters(), strict=True))


@pytest.mark.parametrize("change", ["weight", "gradient", "architecture"])
def test_a_peer_that_computes_something_else_is_refused(monkeypatch, change):
    pytest.importorskip("transformers")
    build = module.build_peer

    def other(model):
        peer = build(model)
        if change == "weight":
            with torch.no_grad():
                peer.lm_head.weight[5] += 0.1
        elif change == "gradient":
            peer.lm_head.weight.requires_grad_(False)
        else:
            peer.model.layers[0].mlp.router.routed_scaling_factor = 1.0
        return peer

    monkeypatch.setattr(module, "build_peer", other)
    with pytest.raises(MismatchError, match="on the same weights and tokens"):
        run_train(TrainPlan(shape=MICRO, repetitions=1), CPU)


def test_a_loss_that_is_not_a_number_never_agrees():
    ours = module._our_contestants(TrainPlan(shape=MICRO), CPU)[0]
    broken = module._our_contestants(TrainPlan(shape=MICRO), CPU)[0]
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(MismatchError, match="nan"):
        check_agreement(ours, broken, module.random_tokens(MICRO, 0))


def test_a_model_the_peer_does_not_know_is_refused():
    pytest.importorskip("transformers")
    model = replace(MICRO.model, ngram=NgramConfig(order=2, splits=2, ratio=2.0), router_bias=True)
    with pytest.raises(ConfigError, match=r"ngram\.order, router_bias"):
        run_train(TrainPlan(shape=replace(MICRO, model=model), repetitions=1), CPU)


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setattr("homegrown.bench.peer.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'homegrown-lm\[dev\]'.*--no-peer"):
        run_train(TrainPlan(shape=MICRO, repetitions=1), CPU)


def test_model_flops_against_a_hand_count():
    """Every matrix of the micro model by its own numbers, and the scores of 2 sublayers of 2 heads."""
    mla = 16 * 32 + 2 * 16 * 16 + (16 + 8) * 32 + 2 * (8 + 8) * 16 + 32 * 2 * 8
    matrices = 2 * mla + 2 * 3 * 32 * 48 + 6 * 32 + 64 * 32
    vectors = 2 * (16 + 16) + 4 * 32 + 32 + 6  # norms and the router's correction count as active parameters
    experts = 1.5 * 3 * 32 * 16
    # A key costs a head 2 * 16 for its score and 2 * 8 for its value, and backward twice that; half the keys are seen.
    scores = 2 * 2 * 3 * (2 * 16 + 2 * 8) * 16 / 2
    wanted = 32 * (6 * (matrices + vectors + experts) + scores)
    assert training_flops(MICRO.model, count(MICRO.model), 32, 16, 1.5) == pytest.approx(wanted)


def test_shapes_are_the_sizes_they_say():
    for name, (total, active) in {"tiny": (68, 21), "small": (355, 132)}.items():
        config = SHAPES[name]().model
        counted = count(config)
        even = config.moe_topk * config.n_routed_experts / (config.n_routed_experts + config.zero_expert_num)
        assert round(counted.total / 1e6) == total
        assert round(counted.active(even) / 1e6) == active


def test_sizes_of_a_shape_can_be_changed():
    assert (shape("tiny").batch, shape("tiny", batch=3, seq_len=64).tokens) == (4, 192)
    with pytest.raises(ConfigError, match="no benchmark shape 'huge'; there are: quickstart, tiny, small"):
        shape("huge")
    with pytest.raises(ConfigError, match="between 2 and 8192 tokens long"):
        shape("tiny", seq_len=10000)
    with pytest.raises(ConfigError, match="the batch must be at least 1"):
        shape("tiny", batch=-1)


def test_spread():
    spread = Spread.of([3.0, 1.0, 2.0, 4.0, 5.0])
    assert (spread.median, spread.lower_quartile, spread.upper_quartile) == (3, 2, 4)
    assert (spread.minimum, spread.maximum, spread.values) == (1, 5, [3, 1, 2, 4, 5])
    assert Spread.of([2.0]).upper_quartile == 2


def test_a_folder_outside_a_repository_has_no_commit(tmp_path):
    assert commit(tmp_path) == ""


def test_default_path_is_dated():
    assert re.fullmatch(r"benchmarks/\d{4}-\d\d-\d\d-\d{4}-train-tiny\.json", str(default_path("train", "tiny")))
