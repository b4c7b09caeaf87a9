"""Checkpoints of several processes: any world reads what any other wrote; whoever dies, the one before is whole."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from homegrown.parallel.groups import Group
from homegrown.train.checkpoint import (
    CheckpointError,
    Checkpoints,
    Memory,
    Report,
    inspect,
    load_newest,
    piece_key,
    saved_steps,
)
from homegrown.train.checkpoint import peers as peers_module

from . import worlds

PIECES = 11


def truth(step: int) -> dict[str, Tensor]:
    """The whole state of a step: pieces of two parameters, controllers."""
    generator = torch.Generator().manual_seed(step)
    state = {
        piece_key("layers.0.w", 3 * row, 3 * row + 3, kind): torch.randn(3, 5, generator=generator)
        for row in range(PIECES)
        for kind in ("master", "momentum")
    }
    state |= {piece_key("embed", 0, 4, "exp_avg"): torch.randn(4, 2, generator=generator).to(torch.bfloat16)}
    return state | {"router/0": torch.randn(6, generator=generator), "steps": torch.tensor(step)}


def owned(step: int, ranks: Group, shift: int = 0) -> dict[str, Tensor]:
    """A rank's share of it; another `shift` is another layout."""
    return {
        key: tensor for number, (key, tensor) in enumerate(truth(step).items())
        if (number * (shift + 1) + shift) % ranks.size == ranks.rank
    }  # fmt: skip


def empty(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.full_like(tensor, -7) for key, tensor in tensors.items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def saved(ranks: Group, root: Path, *steps: int, **options: Any) -> list[Report]:
    """Save some steps, one after the other."""
    with Checkpoints(root, keep=3, group=ranks, **options) as checkpoints:
        reports = []
        for step in steps:
            checkpoints.save(step, owned(step, ranks), {"step": step, "rank": ranks.rank})
            reports += checkpoints.wait()
        return reports


def loaded(ranks: Group, root: Path, shift: int, **options: Any) -> tuple[int | None, str, list[str]]:
    """Load in a layout; all wanted tensors are checked here, bit for bit."""
    with Checkpoints(root, keep=3, group=ranks, **options) as checkpoints:
        wanted: dict[str, Tensor] = {}

        def ask(manifest: Any) -> dict[str, Tensor]:
            wanted.update(empty(owned(manifest.step, ranks, shift) | {"router/0": truth(0)["router/0"]}))
            return wanted

        found = checkpoints.load(ask)
        if found.step is not None:
            everything = truth(found.step)
            assert same(wanted, {key: everything[key] for key in wanted})
            assert found.facts == {"step": found.step, "rank": 0}
        return found.step, found.place, found.complaints


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_world_reads_what_any_other_wrote(tmp_path, world):
    reports = worlds.run(world, saved, tmp_path, 8)
    assert [[(report.step, report.error) for report in of_rank] for of_rank in reports] == [[(8, None)]] * world
    manifest = inspect(tmp_path / "step-00000008", verify=True)
    assert len(manifest.parts) == world
    for readers in {1, 2, 4} - {world}:
        assert worlds.run(readers, loaded, tmp_path, 2) == [(8, "disk", [])] * readers
    alone, complaints = load_newest(tmp_path)
    assert alone is not None
    assert (same(alone.tensors, truth(8)), complaints) == (True, [])


def interrupted(ranks: Group, root: Path, victim: int, phase: str, **options: Any) -> list[str | None]:
    """Save step 1; then a rank dies in a phase of the save of step 2."""

    def watch(begun: str) -> None:
        if armed and begun == phase and ranks.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    armed: list[bool] = []
    places = ("memory",) if "memory" in options else ("disk",)
    with Checkpoints(root, keep=1, group=ranks, watch=watch, **options) as checkpoints:
        checkpoints.save(1, owned(1, ranks), {"step": 1, "rank": ranks.rank}, places)
        first = checkpoints.wait()
        armed.append(True)
        checkpoints.save(2, owned(2, ranks), {"step": 2, "rank": ranks.rank}, places)
        return [report.error for report in first + checkpoints.wait()]


PHASES = ["begin", "write", "write tensors", "write metadata", "checksum"]


@pytest.mark.parametrize(
    ("victim", "phase"), [*((1, phase) for phase in PHASES), *((0, phase) for phase in [*PHASES, "seal", "commit"])]
)
def test_whoever_dies_in_a_save_the_checkpoint_before_is_whole(tmp_path, victim, phase):
    outcome = worlds.run(2, interrupted, tmp_path, victim, phase)
    assert outcome[victim] is None, "the victim was killed"
    first, second = outcome[1 - victim]
    assert first is None
    assert f"rank {victim} does not answer" in second
    assert saved_steps(tmp_path) == [1]
    assert worlds.run(2, loaded, tmp_path, 1) == [(1, "disk", [])] * 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"], "leftovers are removed at the start"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-1])])
@pytest.mark.parametrize("name", ["rank-00001/__0_0.distcp", "rank-00001/.metadata", "manifest.json"])
def test_one_rank_finds_the_damage_and_all_pass_the_checkpoint_over(tmp_path, name, damage):
    worlds.run(2, saved, tmp_path, 5, 6)
    file = tmp_path / "step-00000006" / name
    damage(file)
    for step, place, complaints in worlds.run(2, loaded, tmp_path, 1):
        assert (step, place, len(complaints)) == (5, "disk", 1)
        assert str(file) in complaints[0]


def saved_while_it_changes(ranks: Group, root: Path) -> float:
    state = owned(4, ranks)
    with Checkpoints(root, keep=3, group=ranks) as checkpoints:
        for step in (4, 5):
            for key, tensor in owned(step, ranks).items():
                state[key].copy_(tensor)
            checkpoints.save(step, state, {"step": step, "rank": ranks.rank})
            for tensor in state.values():
                tensor.fill_(float(step))
        reports = checkpoints.wait()
    assert [(report.step, report.error) for report in reports] == [(4, None), (5, None)]
    assert all(report.blocked <= report.seconds for report in reports)
    return reports[0].blocked


def test_what_is_stored_is_the_moment_of_the_call(tmp_path):
    worlds.run(2, saved_while_it_changes, tmp_path)
    for step in (4, 5):
        held = load_newest(tmp_path)[0]
        assert held is not None
        assert same(held.tensors, truth(9 - step))
        shutil.rmtree(tmp_path / f"step-{9 - step:08d}")


def saved_on_a_full_disk(ranks: Group, root: Path) -> tuple[list[str | None], str]:
    """Rank 1's disk takes no more than 2 kB a file for two saves, then for three."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    errors = []
    with Checkpoints(root, keep=3, group=ranks) as checkpoints:
        for step, full in enumerate((False, True, True, False, True, True, True), 1):
            if ranks.rank == 1:
                limit = 2000 if full else resource.RLIM_INFINITY
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            checkpoints.save(step, owned(step, ranks), {"step": step, "rank": ranks.rank})
            try:
                errors += [report.error for report in checkpoints.wait()]
            except CheckpointError as error:
                return errors, str(error)
    return errors, ""


def test_a_full_disk_is_told_and_only_the_third_failure_in_a_row_ends_the_run(tmp_path):
    for errors, last in worlds.run(2, saved_on_a_full_disk, tmp_path):
        assert [error is None for error in errors] == [True, False, False, True, False, False]
        assert "rank 1" in errors[1]
        assert "File too large" in errors[1]
        assert "3 saves in a row failed; the last, of step 7: rank 1" in last
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000001", "step-00000004"]
    assert worlds.run(2, loaded, tmp_path, 0) == [(4, "disk", [])] * 2


def refused(ranks: Group, root: Path, fault: str) -> str:
    """What is said about a state that cannot be saved."""
    state = owned(2, ranks)
    if fault == "infinite" and ranks.rank == 1:
        state[min(state)][1, 1] = float("inf")
    if fault == "twice":
        state["mine"] = torch.zeros(1)
    step = 2 + (ranks.rank if fault == "step" else 0)
    with Checkpoints(root, keep=3, group=ranks) as checkpoints:
        checkpoints.save(step, state, {})
        with pytest.raises(CheckpointError) as caught:
            checkpoints.wait()
    return str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("infinite", ["rank 1", "step 2 is not saved", "'layers.0.w@0:3/momentum'", "non-finite"]),
        ("twice", ["'mine'", "twice", "rank-00000", "rank-00001"]),
        ("step", ["rank 1 saves step 3, rank 0 step 2"]),
    ],
)
def test_a_state_that_cannot_be_saved_is_refused_by_all(tmp_path, fault, words):
    worlds.run(2, saved, tmp_path, 1)
    for message in worlds.run(2, refused, tmp_path, fault):
        assert all(word in message for word in words), message
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


def misfitting(ranks: Group, root: Path, fault: str) -> str:
    wanted = empty(owned(1, ranks))
    if ranks.rank == 1:
        key = "router/9" if fault == "missing" else "router/0"
        wanted[key] = torch.zeros(7)
    with Checkpoints(root, keep=3, group=ranks) as checkpoints, pytest.raises(CheckpointError) as caught:
        checkpoints.load(wanted)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "tensor 'router/9' is missing"),
        ("shape", "tensor 'router/0' is float32[6], not float32[7] as asked for"),
    ],
)
def test_what_is_missing_or_of_another_shape_is_named_to_all(tmp_path, fault, words):
    worlds.run(2, saved, tmp_path, 1)
    for message in worlds.run(2, misfitting, tmp_path, fault):
        assert words in message


def over_a_chain(ranks: Group, root: Path) -> list[Report]:
    """Every rank's parent is the one before it: the deepest tree that four ranks have."""
    peers_module.FAN_OUT = 1
    return saved(ranks, root, 3)


def test_reports_pass_through_ranks_in_between(tmp_path):
    for reports in worlds.run(4, over_a_chain, tmp_path):
        assert [report.error for report in reports] == [None]
    assert worlds.run(2, loaded, tmp_path, 1) == [(3, "disk", [])] * 2


def memory_of(folder: Path, host: str) -> Memory:
    return Memory(folder / "memory" / host, host)


def remembered(ranks: Group, folder: Path, hosts: str, on_disk: list[int], steps: list[int]) -> list[str | None]:
    """Save to disk and memory, on hosts by rank."""
    memory = memory_of(folder, hosts[ranks.rank])
    with Checkpoints(folder / "disk", keep=3, group=ranks, memory=memory, run="this") as checkpoints:
        reports = []
        for step in steps:
            places = ("memory", "disk") if step in on_disk else ("memory",)
            checkpoints.save(step, owned(step, ranks), {"step": step, "rank": ranks.rank}, places)
            reports += checkpoints.wait()
        return [report.error for report in reports]


def recalled(ranks: Group, folder: Path, hosts: str, shift: int, run: str) -> tuple[int | None, str, list[str]]:
    return loaded(ranks, folder / "disk", shift, memory=memory_of(folder, hosts[ranks.rank]), run=run)


@pytest.mark.parametrize("lost", ["A", "B", "C"])
def test_whichever_host_is_lost_the_newest_copy_in_memory_survives(tmp_path, lost):
    """Four ranks on three hosts; afterwards two on the hosts that are left, or on one of them and a new one."""
    outcome = worlds.run(4, remembered, tmp_path, "AABC", [2], [2, 3, 4])
    assert outcome == [[None] * 4] * 4
    memory = tmp_path / "memory"
    assert all([entry.name for entry in (memory / host).iterdir()] == ["step-00000004"] for host in "ABC")
    shutil.rmtree(memory / lost)
    shutil.copytree(memory, tmp_path / "again" / "memory")
    left = "ABC".replace(lost, "")
    assert worlds.run(2, recalled, tmp_path, left, 1, "this") == [(4, "memory", [])] * 2
    assert worlds.run(4, recalled, tmp_path / "again", f"{left[0]}N{left[1]}N", 2, "this") == [(4, "memory", [])] * 4


def test_when_two_neighbours_are_lost_the_disk_is_what_is_left(tmp_path):
    worlds.run(3, remembered, tmp_path, "ABC", [2], [2, 3])
    shutil.rmtree(tmp_path / "memory" / "A")
    shutil.rmtree(tmp_path / "memory" / "B")
    for step, place, complaints in worlds.run(2, recalled, tmp_path, "CD", 1, "this"):
        assert (step, place) == (2, "disk")
        assert complaints == ["the copy of step 3 in memory: rank-00000 survived sound on no host"]
    assert not list((tmp_path / "memory" / "C").iterdir()), "what is older than the state in use is dropped"


def test_a_damaged_part_in_memory_is_fetched_from_its_keeper(tmp_path):
    worlds.run(2, remembered, tmp_path, "AB", [], [3])
    flip(tmp_path / "memory" / "A" / "step-00000003" / "rank-00000" / "__0_0.distcp")
    assert worlds.run(2, recalled, tmp_path, "AB", 0, "this") == [(3, "memory", [])] * 2


def test_copies_of_another_run_in_the_same_place_are_not_loaded(tmp_path):
    worlds.run(2, remembered, tmp_path, "AB", [], [3])
    assert worlds.run(2, recalled, tmp_path, "AB", 0, "another") == [(None, "nowhere", [])] * 2


def killed_over_memory(ranks: Group, folder: Path, victim: int, phase: str) -> list[str | None]:
    return interrupted(ranks, folder / "disk", victim, phase, memory=memory_of(folder, "AB"[ranks.rank]), run="this")


@pytest.mark.parametrize(("victim", "phase"), [(1, "write metadata"), (1, "exchange"), (0, "exchange"), (0, "seal")])
def test_whoever_dies_in_a_copy_to_memory_one_is_complete(tmp_path, victim, phase):
    worlds.run(2, killed_over_memory, tmp_path, victim, phase)
    found = worlds.run(2, recalled, tmp_path, "AB", 1, "this")
    assert found[0] == found[1]
    assert found[0][:2] == (2 if phase == "seal" else 1, "memory")


def test_a_wait_for_the_save_before_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr("homegrown.train.checkpoint.checkpoints.SLOW_SECONDS", 0.0)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, truth(step), {})
        checkpoints.wait()
        assert len(checkpoints.notes) == 1
        assert "saving takes longer than the time between saves" in checkpoints.notes[0]
