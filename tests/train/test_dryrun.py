"""Dry runs against real ones, and against plain arithmetic."""

import dataclasses
import json
import resource
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from homegrown.cli.main import main
from homegrown.config import ConfigError, DataConfig, ParallelConfig, TrainConfig, UsageError, load_recipe, to_toml
from homegrown.data import Batch
from homegrown.model import count, training_flops
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import settle
from homegrown.parallel.parts import global_shapes
from homegrown.train.dryrun import job as jobs
from homegrown.train.dryrun.agreement import abbreviated, disagreements, witnesses
from homegrown.train.dryrun.components import component_of
from homegrown.train.dryrun.job import busiest_step, observe, rehearse
from homegrown.train.dryrun.report import of_kind
from homegrown.train.dryrun.run import Request, dry_run
from homegrown.train.dryrun.verdict import FitError, check_fit, parse_bytes
from homegrown.train.dryrun.wire import Message
from homegrown.train.run import new_stepper
from tests.parallel.spawn import spawn
from tests.train import tiny

WORLD = 4
LAYOUTS = {
    "pipeline and experts": ParallelConfig(pp=2, ep=2, timeout_s=60),
    "context and tensors": ParallelConfig(cp=2, tp=2, ep=2, timeout_s=60),
}
DATA_DECIDES = {"embp"}
"""Groups whose messages depend on values: how many different n-grams there are."""


def config_of(parallel: ParallelConfig, recompute: str = "none") -> TrainConfig:
    """Every token chooses every expert, so that routing is as even as a dry run supposes it to be."""
    return tiny.replaced(
        tiny.train_config(Path("unused")), model=tiny.model_config(moe_topk=9, num_attention_heads=4),
        parallel=parallel, recompute=recompute,
        data=DataConfig(path=Path("unused"), seq_len=32, global_batch=8, micro_batch=1),
    )  # fmt: skip


def layout_of(config: TrainConfig, world: int = WORLD):
    return settle(config.parallel, world, config.model, config.data)


# Against a real run


def real_step(world, name):
    """The step that is rehearsed, taken by real processes, under the same eyes."""
    config = config_of(LAYOUTS[name])
    layout = layout_of(config)
    groups = Groups(layout, world.rank, 60)
    stepper = new_stepper(config, groups, torch.device("cpu"), bf16_fast=False)
    rows = config.data.global_batch // layout.dp
    random = np.random.default_rng(layout.place(world.rank).dp)
    tokens = random.integers(3, config.model.vocab_size, (rows, config.data.seq_len + 1))
    return observe(stepper, groups, Batch(tokens, np.zeros_like(tokens)))


def real_steps(world):
    return {name: real_step(world, name) for name in LAYOUTS}


@pytest.fixture(scope="module")
def measured():
    return spawn(WORLD, real_steps)


@pytest.fixture(scope="module")
def rehearsed():
    configs = {name: config_of(parallel) for name, parallel in LAYOUTS.items()}
    return [
        {name: rehearse(config, layout_of(config), rank) for name, config in configs.items()} for rank in range(WORLD)
    ]


def pairs(rehearsed, measured):
    return [(dry[name], real[name]) for dry, real in zip(rehearsed, measured, strict=True) for name in LAYOUTS]


def test_memory_between_steps_is_that_of_a_real_run(rehearsed, measured):
    for dry, real in pairs(rehearsed, measured):
        assert dry.resting == real.resting


def test_memory_in_a_step_is_that_of_a_real_run(rehearsed, measured):
    """To a few hundred bytes: on the CPU, host tensors are on the device as well, and n-grams repeat."""
    for dry, real in pairs(rehearsed, measured):
        for kind in ("parameters", "gradients", "optimizer"):
            assert of_kind(dry.at_peak, kind) == of_kind(real.at_peak, kind)
        assert dry.peak == pytest.approx(real.peak, rel=3e-3)
        assert sum(dry.kept.values()) == pytest.approx(sum(real.kept.values()), rel=1e-2)


def test_work_is_that_of_a_real_run(rehearsed, measured):
    for dry, real in pairs(rehearsed, measured):
        assert sum(dry.flops.values()) == sum(real.flops.values())


def test_messages_are_those_of_a_real_run(rehearsed, measured):
    for dry, real in pairs(rehearsed, measured):
        streams = [defaultdict(list), defaultdict(list)]
        for stream, done in zip(streams, (dry, real), strict=True):
            for message in done.messages:
                stream[message.group].append(message)
        assert streams[0].keys() == streams[1].keys()
        for group in streams[0]:
            if group in DATA_DECIDES:
                assert [message.op for message in streams[0][group]] == [message.op for message in streams[1][group]]
                sent = [sum(message.sent(dry.rank) for message in stream[group]) for stream in streams]
                assert sent[0] == pytest.approx(sent[1], rel=0.15)
            else:
                assert streams[0][group] == streams[1][group]


def test_ranks_agree_in_real_and_dry_runs(rehearsed, measured):
    for name in LAYOUTS:
        for ranks in (rehearsed, measured):
            assert disagreements({rank: done[name].messages for rank, done in enumerate(ranks)}) == []


def test_ranks_that_look_at_other_lengths_do_not_agree(rehearsed):
    """One rank with a longer row than the others: the check sees where they first part."""
    config = tiny.replaced(config_of(LAYOUTS["pipeline and experts"]), data__seq_len=48)
    traces = {rank: done["pipeline and experts"].messages for rank, done in enumerate(rehearsed)}
    traces[1] = rehearse(config, layout_of(config), 1).messages
    found = disagreements(traces)
    assert any("rank 0 sends" in fault and "to rank 1, which expects" in fault for fault in found)
    assert any(fault.startswith("transfer 1 from rank 1 to rank 3") for fault in found)


def test_parameters_are_the_layouts_shards(rehearsed):
    for rank, done in enumerate(rehearsed):
        for name, rehearsal in done.items():
            config = config_of(LAYOUTS[name])
            sizes = Counter()
            for parameter, shape in global_shapes(config.model).items():
                shard = rehearsal.layout.shard(parameter, shape, rank, config.model)
                sizes[component_of(parameter)] += 0 if shard is None else 4 * int(np.prod(shard.local_shape))
            # Routers have a bias that is no parameter.
            layers = sum(len(part.layers) for part in rehearsal.layout.parts_of(rank))
            sizes["router"] += layers * 4 * 9
            held = {use.component: size for use, size in rehearsal.resting.items() if use.kind == "parameters"}
            assert held == {component: size for component, size in sizes.items() if size}


# Ops once


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_ops_that_run_once_count_as_if_they_ran_each_time(recompute, monkeypatch):
    config = config_of(LAYOUTS["context and tensors"], recompute)
    once = rehearse(config, layout_of(config), 1)
    monkeypatch.setattr(jobs, "ops_once", lambda meter: torch.enable_grad())
    always = rehearse(config, layout_of(config), 1)
    assert sum(once.flops.values()) == sum(always.flops.values())
    assert once.messages == always.messages
    assert once.peak == always.peak
    assert sum(once.kept.values()) == sum(always.kept.values())


def test_offload_moves_what_is_kept_to_the_host():
    model = tiny.model_config(hidden_size=512, max_position_embeddings=1024)
    data = DataConfig(path=Path("unused"), seq_len=1024, global_batch=1, micro_batch=1)
    config = tiny.replaced(tiny.train_config(Path("unused")), model=model, data=data)
    here = rehearse(config, layout_of(config, 1), 0)
    away = rehearse(dataclasses.replace(config, offload="activations"), layout_of(config, 1), 0)
    assert here.host_peak < 1 << 20 < away.host_peak
    assert sum(here.kept.values()) - sum(away.kept.values()) == pytest.approx(away.host_peak, rel=0.02)


# Work, against arithmetic


def test_work_is_what_the_model_needs_and_what_is_said_to_be_left_out():
    """`training_flops` leaves out: projections of n-gram rows, what chooses and teaches the indexer, norms. It assumes
    that a query sees half the sequence, where whole chunks are computed, and that all inputs need gradients, where the
    indexer's do not."""
    length, heads, drafts = 512, 4, 2
    model = tiny.model_config(
        hidden_size=128, num_attention_heads=heads, ffn_hidden_size=256, expert_ffn_hidden_size=64, vocab_size=512,
        n_routed_experts=12, zero_expert_num=4, moe_topk=4, max_position_embeddings=1024,
    )  # fmt: skip
    config = tiny.replaced(
        tiny.train_config(Path("unused")), model=model,
        data=DataConfig(path=Path("unused"), seq_len=length, global_batch=1, micro_batch=1),
    )  # fmt: skip
    done = rehearse(config, layout_of(config, 1), 0)
    by_op, by_component = Counter(), Counter()
    for (use, op), number in done.flops.items():
        if use.kind != "step":
            by_op[op] += number
            by_component[use.component, op] += number

    shapes = {name: torch.Size(shape).numel() for name, shape in global_shapes(model).items() if len(shape) > 1}
    matrices = Counter()
    for name, numbers in shapes.items():
        matrices[component_of(name)] += numbers
    for component in ("dense feed-forward", "router", "attention"):
        assert by_component[component, "mm"] == 6 * length * matrices[component]
    assert by_component["indexer", "mm"] == 4 * length * matrices["indexer"]
    assert by_component["n-gram tables", "mm"] == 6 * length * matrices["n-gram projections"]
    assert by_component["head", "linear_cross_entropy"] == 6 * length * matrices["head"] * (1 + drafts)
    # A row that stands for pairs that are none, and numbers rounded up to whole pairs.
    expert = shapes["layers.0.mlp.experts.gate_up_proj"] + shapes["layers.0.mlp.experts.down_proj"]
    real = model.moe_topk * 12 / 16
    assert by_component["experts", "mm"] == pytest.approx(6 * length * 2 * expert / 12 * real, rel=0.02)
    seen = 128 * (128 + 256 + 384 + 512)
    widths = model.qk_head_dim + model.v_head_dim
    assert by_op["attention"] == (model.attention_sublayers + drafts) * 6 * heads * widths * seen

    counted = count(model)
    total = training_flops(model, counted, length, length, real, drafts)
    drafting = sum(numbers for name, numbers in shapes.items() if name.startswith("mtp.") and ".indexer." in name)
    stated = (
        6 * length * matrices["n-gram projections"] + by_op["select"] + by_op["indexer_loss"] + by_op["mv"]
        + by_op["attention"] * (1 - length * length / 2 / seen)
        - 2 * length * (matrices["indexer"] + drafts * drafting)
    )  # fmt: skip
    assert sum(by_op.values()) == pytest.approx(total + stated, rel=0.01)


# Agreement


def message(op="all_gather", ranks=(0, 1), send=8, receive=8, peer=-1):
    return Message(op, "tp", ranks, send, receive, peer)


@pytest.mark.parametrize(
    ("theirs", "fault"),
    [
        ([message()], "2 of group tp (0, 1): rank 0 calls all_gather, rank 1 makes no more calls"),
        ([message(), message("all_to_all")], "2 of group tp (0, 1): rank 0 calls all_gather, rank 1 calls all_to_all"),
        (
            [message(send=4), message()],
            "1 of group tp (0, 1) (all_gather): rank 1 sends 4 bytes to rank 0, which expects 8",
        ),
    ],
)
def test_what_does_not_match_is_named(theirs, fault):
    assert disagreements({0: [message(), message()], 1: theirs}) == [f"collective {fault}"]


def test_uneven_sizes_match_pair_by_pair():
    one = message("all_to_all", send=(0, 6), receive=(0, 2))
    other = message("all_to_all", send=(2, 0), receive=(6, 0))
    assert disagreements({0: [one], 1: [other]}) == []
    assert "rank 0 sends 7 bytes to rank 1, which expects 6" in disagreements(
        {0: [dataclasses.replace(one, send=(0, 7))], 1: [other]}
    )[0]  # fmt: skip


def test_transfers_need_two_ends():
    send = message("send", ranks=(0, 1), send=8, receive=0, peer=1)
    receive = message("receive", ranks=(0, 1), send=0, receive=8, peer=0)
    assert disagreements({0: [send], 1: [receive]}) == []
    assert disagreements({0: [send, send], 1: [receive]}) == [
        "transfer 2 from rank 0 to rank 1: 8 bytes are sent, nothing is expected"
    ]


def test_witnesses_show_every_group_twice():
    config = load_recipe("longcat-2.0")
    layout = layout_of(config, 49152)
    chosen = witnesses(layout, 6144)
    assert len(chosen) < 24
    for kind in ("tp", "data", "tokens", "ep", "expert_replicas", "embp", "row_replicas", "pp"):
        assert len(set(chosen) & set(layout.members(kind, 6144))) >= 2


@pytest.mark.parametrize(
    ("ranks", "text"), [((5,), "5"), ((1, 3), "1, 3"), (tuple(range(8)), "0-7"), ((0, 8, 16, 24), "0, 8, ..., 24 (4)")]
)
def test_abbreviated(ranks, text):
    assert abbreviated(ranks) == text


# Verdicts


@pytest.mark.parametrize(("text", "size"), [("64GiB", 64 << 30), ("80 GB", 80 * 10**9), ("0.5MiB", 1 << 19)])
def test_memory_is_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["64", "64gib", "-1GiB", "0GiB", "GiB", "1e3GiB"])
def test_memory_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="write a positive number and a unit, such as 64GiB"):
        parse_bytes(text)


def test_what_does_not_fit_is_refused_with_reasons(rehearsed):
    done = rehearsed[0]["pipeline and experts"]
    check_fit(done, done.peak)
    largest = max(done.at_peak, key=lambda use: done.at_peak[use])
    with pytest.raises(
        FitError, match=rf"rank 0 needs .* too much; the largest parts are {largest.component} {largest.kind}"
    ):
        check_fit(done, done.peak - 1)


def test_layouts_that_do_not_divide_are_refused():
    config = config_of(LAYOUTS["pipeline and experts"])
    with pytest.raises(ConfigError, match=r"must be a multiple of parallel\.pp"):
        dry_run(config, Request(3), print)
    with pytest.raises(ConfigError, match="rank 4: the layout has ranks 0 to 3"):
        dry_run(config, Request(4, (4,)), print)
    with pytest.raises(ConfigError, match="needs the number of processes"):
        dry_run(config, Request(0), print)


def test_the_busiest_step_is_one_in_which_everything_trains():
    config = tiny.replaced(tiny.train_config(Path("unused")), steps=100, loss__mtp_every=8, loss__indexer_every=6)
    assert busiest_step(config) == 96
    assert busiest_step(tiny.replaced(config, loss__indexer_every=0)) == 96
    assert busiest_step(tiny.replaced(config, steps=5)) == 1


# The command


def test_command_shows_every_rank_and_writes_it_down(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(to_toml(config_of(LAYOUTS["pipeline and experts"])), "utf-8")
    out = tmp_path / "found.json"
    command = ["train", str(file), "--dry-run", "--world-size", "4", "--check-ranks", "--memory", "1GiB"]
    assert main([*command, "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "rank 0 of 4 ranks = pp 2 x dp 2 x cp 1 x tp 1, ep 2, embp 2: pp 0, dp 0, cp 0, tp 0; layers 0-0" in shown
    assert "agree: ranks 0, 1, 2, 3" in shown
    found = json.loads(out.read_text())
    assert [entry["rank"] for entry in found] == [0, 3]
    assert found[0]["groups"]["pp"] == {"size": 2, "ranks": "0, 2"}
    assert len(found[0]["messages"]) == sum(entry["calls"] for entry in found[0]["traffic"])
    assert found[0]["memory"]["peak_bytes"] == sum(
        size for sizes in found[0]["memory"]["at_peak"].values() for size in sizes.values()
    )
    assert not (tmp_path / "unused").exists()


def test_command_refuses(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(to_toml(config_of(LAYOUTS["pipeline and experts"])), "utf-8")
    assert main(["train", str(file), "--dry-run", "--world-size", "4", "--memory", "1MiB", "--rank", "0"]) == 1
    assert "rank 0 needs" in capsys.readouterr().err
    assert main(["train", str(file), "--memory", "1GiB"]) == 2
    assert "--memory: only for a dry run (--dry-run)" in capsys.readouterr().err


MEASURED = """
import sys
from pathlib import Path
from homegrown.cli.main import main
assert main(sys.argv[1:]) == 0
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""
"""Runs a command and prints the KiB its process had at most; what `getrusage` says of a child holds its parent's."""


@pytest.mark.slow
def test_longcat_on_49152_devices(tmp_path):
    """One rank in the middle of the pipeline, in less than two minutes of processor time and three GiB."""
    out = tmp_path / "found.json"
    command = [
        "train", "longcat-2.0", "--dry-run", "--world-size", "49152", "--memory", "64GiB", "--rank", "18432",
        "--json", str(out),
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 120
    assert int(done.stdout.split()[-1]) < 3 << 20
    (found,) = json.loads(out.read_text())
    assert found["layers"] == [[14, 15, 16, 17, 18, 19]]
    # Three of 768 experts in each of six layers, in bfloat16.
    assert found["memory"]["resting"]["parameters"]["experts"] == 6 * 3 * 3 * 2048 * 8192 * 2
    assert found["memory"]["peak_bytes"] < 64 << 30
    dense = 3 * 8192 * 12288 // 8
    micro_batches, tokens = 16, 8192
    assert sum(
        sum(found["flops"][phase]["dense feed-forward"].values()) for phase in ("forward", "backward")
    ) == 6 * 12 * dense * tokens * micro_batches  # fmt: skip
