"""The self-test: healthy machines pass, and what is broken on purpose is found and named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown import ops
from homegrown.bench.doctor import Plan, Report, examine
from homegrown.bench.doctor import network as network_module
from homegrown.bench.doctor.examine import ticks
from homegrown.bench.doctor.judge import compare, judge
from homegrown.bench.doctor.kernels import check_kernels
from homegrown.bench.doctor.report import Node, named, read, write
from homegrown.bench.doctor.show import findings, tables, verdict
from homegrown.bench.record import Spread
from homegrown.cli.main import main
from homegrown.config import UserError
from homegrown.ops.samples import samples
from homegrown.parallel.world import World, leave

from ..parallel.spawn import spawn

CPU = torch.device("cpu")
TINY = dataclasses.replace(Plan.of(quick=True, timeout_s=60), length=16, repetitions=1, seconds=0.0, numbers=64)
ALONE = World(rank=0, size=1, local_rank=0, device=CPU)


@contextmanager
def swiglu_with(change: Any) -> Iterator[None]:
    """The active implementation of an op, its result passed through `change`."""
    op = ops.OPS["swiglu"]
    sound = op.implementations[op.active]
    op.implementations[op.active] = lambda *args: change(sound(*args))
    try:
        yield
    finally:
        op.implementations[op.active] = sound


def flipped(out: Tensor) -> Tensor:
    """The lowest bit of one number is another."""
    wrong = torch.zeros_like(out)
    first = out.detach().reshape(-1)[0]
    wrong.view(-1)[0] = torch.nextafter(first, torch.full_like(first, torch.inf)) - first
    return out + wrong


@pytest.fixture(scope="module")
def healthy() -> Report:
    labels: list[str] = []
    report = examine(ALONE, TINY, ["--quick"], labels.append)
    assert len(labels) == ticks(TINY, ALONE)
    return report


class TestAlone:
    def test_a_sound_machine_is_healthy(self, healthy):
        assert [finding for finding in healthy.findings if finding.severity == "fault"] == []
        assert healthy.healthy
        (node,) = healthy.nodes
        assert node.origin.versions["torch"] == torch.__version__
        assert set(node.multiply) == {"float32", "bfloat16"}
        assert node.bandwidth.median > 1e8
        assert node.collectives == []

    def test_every_op_is_examined_in_every_dtype(self, healthy):
        assert {sample.kernel for sample in samples(16)} >= set(ops.OPS)
        assert {result.kernel for result in healthy.nodes[0].kernels} >= set(ops.OPS)
        assert all(result.error > 0 for result in healthy.nodes[0].kernels if result.kernel != "select")
        assert all(result.digest and result.repeats for result in healthy.nodes[0].kernels)

    def test_the_same_inputs_on_every_machine(self):
        first, second = samples(16), samples(16)
        for one, two in zip(first, second, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one.tensors, two.tensors, strict=True))

    def test_a_wrong_kernel_is_a_fault(self):
        with swiglu_with(lambda out: out * 1.001):
            wrong = judge([node_of(kernels=check_kernels(CPU, 16, 2))])
        assert "kernel swiglu (fused_backward, float32) is off by 1" in wrong[0].message
        assert [finding.severity for finding in wrong] == ["fault"], "bfloat16 is allowed more"

    def test_numbers_that_are_none_are_a_fault(self):
        with swiglu_with(lambda out: out * torch.nan):
            wrong = judge([node_of(kernels=check_kernels(CPU, 16, 2))])
        assert [("off by inf" in finding.message) for finding in wrong] == [True, True]

    def test_a_kernel_that_does_not_repeat_itself_is_a_fault(self):
        calls: list[int] = []

        def sometimes(out: Tensor) -> Tensor:
            calls.append(1)
            return flipped(out) if len(calls) % 2 else out

        with swiglu_with(sometimes):
            wrong = judge([node_of(kernels=check_kernels(CPU, 16, 2))])
        assert [finding.message for finding in wrong] == [
            f"kernel swiglu (fused_backward, {dtype}) does not repeat its bits" for dtype in ("float32", "bfloat16")
        ]

    def test_a_kernel_that_does_not_run(self):
        def missing(out: Tensor) -> Tensor:
            raise NotImplementedError("'aten::silu' is not implemented for this device\nand a long list of others")

        with swiglu_with(missing):
            wrong = judge([node_of(kernels=check_kernels(CPU, 16, 2))])
        assert wrong[0].message == (
            "kernel swiglu (fused_backward, float32) does not run: 'aten::silu' is not implemented for this device"
        )

    def test_a_kernel_without_a_repeatable_variant(self):
        with swiglu_with(lambda out: out.put_(torch.tensor([0]), out.new_zeros(1))):
            wrong = judge([node_of(kernels=check_kernels(CPU, 16, 2))])
        assert "does not run: put_ does not have a deterministic implementation" in wrong[0].message

    def test_it_leaves_pytorch_as_it_was(self):
        before = torch.get_deterministic_debug_mode(), torch.get_rng_state()
        check_kernels(CPU, 16, 1)
        assert torch.get_deterministic_debug_mode() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])

    def test_its_file_gives_it_back(self, healthy, tmp_path):
        write(healthy, tmp_path / "report.json")
        assert read(tmp_path / "report.json") == healthy
        (tmp_path / "other.json").write_text('{"kind": "train"}')
        with pytest.raises(UserError, match=r"other\.json: not a report of `homegrown doctor --json`"):
            read(tmp_path / "other.json")
        with pytest.raises(UserError, match=r"none\.json: no such file"):
            read(tmp_path / "none.json")


# Several processes


UNTIMED = dataclasses.replace(TINY, dtypes=())


def three(world: World) -> dict[str, Report]:
    """A sound examination, one with a flipped bit on rank 1, one with a wrong collective on rank 2, one without it."""
    reports = {"sound": examine(world, TINY)}
    with swiglu_with(flipped) if world.rank == 1 else nullcontext():
        reports["flipped"] = examine(world, UNTIMED)
    operations = network_module._OPERATIONS
    if world.rank == 2:
        sound = operations["all_gather"]
        operations["all_gather"] = dataclasses.replace(sound, run=lambda x, group: sound.run(x, group) + 1)
    reports["collective"] = examine(world, UNTIMED)
    if world.rank == 2:
        leave()
    else:
        reports["lost"] = examine(world, UNTIMED)
    return reports


@pytest.fixture(scope="module")
def outcomes() -> list[dict[str, Report]]:
    return spawn(3, three)


class TestTogether:
    def test_sound_processes_are_healthy_and_agree(self, outcomes):
        reports = [outcome["sound"] for outcome in outcomes]
        assert reports[0] == reports[1] == reports[2]
        assert reports[0].healthy, reports[0].findings
        assert [node.rank for node in reports[0].nodes] == [0, 1, 2]

    def test_every_group_size_is_checked(self, outcomes):
        nodes = outcomes[0]["sound"].nodes
        sizes = [{result.size for result in node.collectives} for node in nodes]
        assert sizes == [{2, 3}, {2, 3}, {3}], "rank 2 has no neighbour left for a pair"
        assert {result.operation for result in nodes[2].collectives} == set(network_module._OPERATIONS)
        timed = [result for result in nodes[0].collectives if result.latency and result.bandwidth]
        assert len(timed) == 2 * 5
        assert all(result.latency.median > 0 < result.bandwidth.median for result in timed)

    def test_a_flipped_bit_names_its_rank(self, outcomes):
        faults = [finding for finding in outcomes[0]["flipped"].findings if finding.severity == "fault"]
        assert [finding.ranks for finding in faults] == [[1]]
        assert faults[0].message == (
            "other bits than the rest of 3 equal devices: swiglu (fused_backward, float32), "
            "swiglu (fused_backward, bfloat16)"
        )

    def test_a_wrong_collective_names_those_who_saw_it(self, outcomes):
        faults = [finding for finding in outcomes[1]["collective"].findings if finding.severity == "fault"]
        assert [(finding.ranks, finding.message) for finding in faults] == [
            ([2], "all_gather among 3: wrong result in torch.float32, torch.bfloat16, torch.int64")
        ]

    def test_a_process_that_is_gone_leaves_the_others_with_a_verdict(self, outcomes):
        for rank in (0, 1):
            report = outcomes[rank]["lost"]
            assert not report.healthy
            assert [node.rank for node in report.nodes] == [rank]
            messages = [finding.message for finding in report.findings if finding.severity == "fault"]
            assert any("among 3: " in message for message in messages)
            assert any(message.startswith("what the other ranks found could not be collected") for message in messages)


# The verdict over what was found


def node_of(rank: int = 0, **changes: Any) -> Node:
    return dataclasses.replace(MODEL, rank=rank, **changes)


def spread(value: float) -> Spread:
    return Spread.of([value])


MODEL = dataclasses.replace(
    examine(ALONE, UNTIMED).nodes[0],
    kernels=[], multiply={"float32": spread(1e12)}, bandwidth=spread(1e9),
)  # fmt: skip


class TestJudge:
    def test_a_slow_rank_is_a_warning(self):
        nodes = [node_of(rank, multiply={"float32": spread(7e11 if rank == 2 else 1e12)}) for rank in range(4)]
        (slow,) = judge(nodes)
        assert (slow.severity, slow.ranks, slow.message) == (
            "warning", [2], "multiplies float32 at 70% of its equals' speed",
        )  # fmt: skip

    def test_devices_of_another_kind_are_not_its_equals(self):
        other = dataclasses.replace(MODEL.origin, device={**MODEL.origin.device, "name": "half as fast"})
        assert judge([node_of(0), node_of(1), node_of(2, origin=other, multiply={"float32": spread(5e11)})]) == []

    def test_other_software_is_a_fault_of_the_few(self):
        other = dataclasses.replace(MODEL.origin, versions={**MODEL.origin.versions, "torch": "1.0"})
        (fault,) = judge([node_of(0), node_of(1, origin=other), node_of(2)])
        assert (fault.severity, fault.ranks) == ("fault", [1])
        assert fault.message == f"torch differs: {torch.__version__} on ranks 0, 2, 1.0 on rank 1"

    def test_two_that_differ_are_both_under_suspicion(self):
        kernels = check_kernels(CPU, 8, 1)
        other = [dataclasses.replace(result, digest=f"other {result.digest}") for result in kernels]
        (fault,) = judge([node_of(0, kernels=kernels), node_of(1, kernels=other)])
        assert fault.ranks == [0, 1]
        assert fault.message.endswith("more")

    def test_ranks_are_named_in_runs(self):
        assert named([3]) == "rank 3"
        assert named([5, 0, 1, 2]) == "ranks 0-2, 5"


class TestCompare:
    def test_the_same_bits_as_before(self, healthy):
        assert compare(healthy, healthy, "then.json") == healthy

    def test_other_bits_than_before(self, healthy):
        kernels = [dataclasses.replace(healthy.nodes[0].kernels[0], digest="0"), *healthy.nodes[0].kernels[1:]]
        earlier = dataclasses.replace(healthy, nodes=[dataclasses.replace(healthy.nodes[0], kernels=kernels)])
        report = compare(healthy, earlier, "then.json")
        assert not report.healthy
        assert report.findings[0].message == f"computes other bits than then.json says: {kernels[0].name}"

    def test_only_equals_are_compared(self, healthy):
        origin = dataclasses.replace(healthy.nodes[0].origin, threads=77)
        earlier = dataclasses.replace(healthy, nodes=[dataclasses.replace(healthy.nodes[0], origin=origin)])
        with pytest.raises(UserError, match=r"then\.json: has no .* with torch .* threads; only equals"):
            compare(healthy, earlier, "then.json")
        with pytest.raises(UserError, match=r"then\.json: made without --quick, and this one with it"):
            compare(healthy, dataclasses.replace(healthy, quick=False), "then.json")


# The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    threads = str(torch.get_num_threads())
    file = tmp_path / "report.json"
    quick = ["doctor", "--quick", "--device", "cpu", "--threads", threads]
    assert main([*quick, "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("verdict: healthy")
    assert "kernels, forward and backward" in err
    assert read(file).nodes[0].origin.command.startswith("homegrown doctor --quick")
    with swiglu_with(flipped):
        assert main([*quick, "--like", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("verdict: not fit to train, 1 fault")
    assert "fault  rank 0: computes other bits than" in err


def test_what_is_shown(healthy: Report, outcomes: list[dict[str, Report]]) -> None:
    assert [table.title for table in tables(healthy)] == [
        "devices", "speed of a device", "kernels, forward and backward: error against float64",
    ]  # fmt: skip
    together = outcomes[0]["flipped"]
    assert [*tables(together)][-1].title == "collectives"
    assert verdict(together).startswith("verdict: not fit to train, 1 fault")
    assert findings(together).plain.startswith("fault  rank 1: other bits")
