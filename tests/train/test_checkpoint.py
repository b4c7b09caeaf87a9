"""Checkpoints: whole or absent, verified when read, and the one before when the newest is damaged."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import metadata

from homegrown.train.checkpoint import (
    MANIFEST,
    CheckpointError,
    Key,
    Spec,
    clean_up,
    directory,
    inspect,
    load_checkpoint,
    load_newest,
    locate,
    part,
    piece_key,
    save_checkpoint,
    saved_steps,
)
from homegrown.train.checkpoint.content import read_manifest
from homegrown.train.checkpoint.part import PartReader, faults

STATE, METADATA = "rank-00000/__0_0.distcp", "rank-00000/.metadata"
FACTS = {"elapsed_s": 1.2345678901234567, "data_fingerprint": "ab" * 32}


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """All dtypes and shapes that a state has, a strided one among them."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(6, 4, generator=generator)
    return {
        "model/weight": numbers.to(torch.bfloat16),
        "model/bias": torch.randn(3, generator=generator),
        "optimizer/weight/master": numbers.T,
        "optimizer/weight/step": torch.tensor(7.0),
        "guard/history": torch.randn(2, 5, generator=generator, dtype=torch.float64),
        "guard/seen": torch.tensor(seed),
    }


def save(root: Path, step: int, keep: int = 10) -> Path:
    return save_checkpoint(root, step, tensors(step), FACTS, keep)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    save(tmp_path, 12)
    loaded = load_checkpoint(directory(tmp_path, 12))
    assert (loaded.step, loaded.facts) == (12, FACTS)
    for name, tensor in tensors(12).items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor), name
    assert loaded.tensors.keys() == tensors(12).keys()


def test_newest_is_taken_and_the_newest_few_are_kept(tmp_path):
    assert load_newest(tmp_path / "nothing") == (None, [])
    for step in (1, 2, 30, 400):
        save(tmp_path, step, keep=2)
    assert saved_steps(tmp_path) == [30, 400]
    newest, complaints = load_newest(tmp_path)
    assert newest is not None
    assert (newest.step, complaints) == (400, [])


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path, position: int = -1, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def become_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("name", [STATE, METADATA, MANIFEST])
@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink, become_a_folder])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(tmp_path, name, damage):
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(directory(tmp_path, 2) / name)
    newest, complaints = load_newest(tmp_path)
    assert newest is not None
    assert newest.step == 1
    assert len(complaints) == 1
    assert str(directory(tmp_path, 2) / name) in complaints[0]


def test_when_all_are_damaged_all_are_named(tmp_path):
    for step in (1, 2, 3):
        flip(save(tmp_path, step) / STATE)
    newest, complaints = load_newest(tmp_path)
    assert newest is None
    for step, complaint in zip((3, 2, 1), complaints, strict=True):
        assert str(directory(tmp_path, step) / STATE) in complaint


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from([STATE, METADATA, MANIFEST])
)
def test_no_flipped_bit_changes_what_is_loaded(tmp_path, place, bit, name):
    root = tmp_path / "checkpoints"
    save(root, 5)
    file = directory(root, 5) / name
    flip(file, int(place * file.stat().st_size), bit)
    try:
        loaded = load_checkpoint(directory(root, 5))
    except CheckpointError as error:
        assert str(directory(root, 5)) in str(error)
    else:
        assert name == MANIFEST, "a flip may be harmless there: one blank for another"
        assert (loaded.step, loaded.facts) == (5, FACTS)
    shutil.rmtree(root)


def test_a_damaged_later_checkpoint_gives_way_to_what_is_saved_after_it_was_passed_over(tmp_path):
    """With keep = 1 the fresh checkpoint would otherwise be the one that goes."""
    save(tmp_path, 2, keep=1)
    flip(save(tmp_path, 30, keep=2) / STATE)
    newest, _ = load_newest(tmp_path)
    assert newest is not None
    assert newest.step == 2
    save(tmp_path, 4, keep=1)
    assert saved_steps(tmp_path) == [4]


def test_a_step_saved_again_replaces_what_was_there(tmp_path):
    flip(save(tmp_path, 7) / STATE)
    save(tmp_path, 7)
    assert load_checkpoint(directory(tmp_path, 7)).step == 7
    assert [entry.name for entry in tmp_path.iterdir()] == [directory(tmp_path, 7).name]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_refused(tmp_path, value):
    save(tmp_path, 1)
    bad = tensors()
    bad["optimizer/weight/master"] = bad["optimizer/weight/master"].clone()
    bad["optimizer/weight/master"][2, 3] = value
    with pytest.raises(CheckpointError, match=r"step 2 is not saved.*'optimizer/weight/master'"):
        save_checkpoint(tmp_path, 2, bad, FACTS, keep=1)
    assert [entry.name for entry in tmp_path.iterdir()] == [directory(tmp_path, 1).name]


def test_leftovers_of_killed_saves_are_no_checkpoints_and_are_removed(tmp_path):
    save(tmp_path, 3)
    half = tmp_path / ".step-00000004.k2x9.tmp"
    (half / STATE).parent.mkdir(parents=True)
    (half / STATE).write_bytes(b"half")
    save(tmp_path, 9).rename(tmp_path / ".step-00000009.old.tmp")
    assert saved_steps(tmp_path) == [3]
    clean_up(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [directory(tmp_path, 3).name]


def test_a_failed_write_leaves_the_older_ones_alone(tmp_path):
    """The disk takes no more than two kilobytes a file while the state is being written."""
    save(tmp_path, 1)
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"of step 2: .*rank-00000: File too large"):
            save(tmp_path, 2, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    newest, complaints = load_newest(tmp_path)
    assert newest is not None
    assert (newest.step, complaints) == (1, [])
    assert [entry.name for entry in tmp_path.iterdir()] == [directory(tmp_path, 1).name]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_each_part_is_a_checkpoint_that_pytorch_reads(tmp_path):
    wanted = {name: torch.zeros_like(tensor).contiguous() for name, tensor in tensors(4).items()}
    distributed_checkpoint.load(wanted, checkpoint_id=save(tmp_path, 4) / "rank-00000", no_dist=True)
    for name, tensor in tensors(4).items():
        assert torch.equal(wanted[name], tensor), name


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_strangers_checkpoint_runs_no_code(tmp_path):
    """Its seal is in order, being the stranger's own."""
    part = save(tmp_path, 4) / "rank-00000"
    facts = read_manifest(part.parent).parts[part.name]
    (part / ".metadata").write_bytes(pickle.dumps(Harmful()))
    assert faults(part, facts), "the seal of an honest writer does not fit"
    with pytest.raises(CheckpointError, match=r"system"):
        PartReader(part).read({"model/bias": torch.zeros(3)})


def test_keys_and_specs_are_read_as_they_are_written():
    for key in (Key("layers.3.mlp.experts.down_proj", 12, 13, "momentum"), Key("a@b", 0, 7, "master")):
        assert Key.parse(piece_key(*key)) == key
    assert Key.parse("guard/history") is None
    for spec in (Spec(torch.bfloat16, (3, 0, 5)), Spec(torch.int64, ())):
        assert Spec.parse(str(spec)) == spec
    for text in ("float32", "float32[3", "softmax[3]", "float32[-1]"):
        with pytest.raises(ValueError, match="no dtype and shape"):
            Spec.parse(text)


def test_a_path_may_mean_a_checkpoint_or_a_run(tmp_path):
    root = tmp_path / "checkpoints"
    save(root, 3)
    flip(save(root, 4) / STATE)
    sound = directory(root, 3)
    assert locate(tmp_path) == locate(root) == locate(sound) == sound
    assert inspect(sound, verify=True).step == 3
    with pytest.raises(CheckpointError, match="checksum"):
        inspect(directory(root, 4), verify=True)
    flip(sound / MANIFEST)
    with pytest.raises(CheckpointError, match=r"step-00000004.*checksum"):
        locate(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        locate(tmp_path / "elsewhere")


def test_the_manifest_is_readable_by_people(tmp_path):
    table = json.loads((save(tmp_path, 1) / MANIFEST).read_text())
    assert table["content"]["step"] == 1
    assert table["content"]["facts"] == FACTS


def test_an_enumeration_may_be_asked_for_its_members_and_nothing_for_anything_else():
    """Early releases of Python 3.11 write a member of an enumeration as getattr(class, name)."""
    encoding = metadata._MEM_FORMAT_ENCODING

    def read(kind: str, name: str) -> object:
        code = f"cbuiltins\ngetattr\n(c{metadata.__name__}\n{kind}\nV{name}\ntR."
        return part._Unpickler(io.BytesIO(code.encode())).load()

    assert read("_MEM_FORMAT_ENCODING", "TORCH_PRESERVE_FORMAT") is encoding.TORCH_PRESERVE_FORMAT
    for kind, name in (("_MEM_FORMAT_ENCODING", "__class__"), ("Metadata", "__init__")):
        with pytest.raises(pickle.UnpicklingError, match="no checkpoint needs"):
            read(kind, name)
