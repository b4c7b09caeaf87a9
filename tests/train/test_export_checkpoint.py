"""A checkpoint exported is the model saved: the same files, whatever ranks and pieces it was written in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import homegrown
from homegrown.cli.main import main
from homegrown.data import TokenDataset
from homegrown.hub import HubWarning
from homegrown.parallel.groups import Group
from homegrown.train.checkpoint import CheckpointError, Checkpoints, Key, load_checkpoint, piece_key, save_checkpoint
from homegrown.train.export import export_checkpoint
from homegrown.train.run import open_run

from . import tiny, worlds


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_command_writes_what_the_run_exported(straight, tmp_path, capsys):
    assert main(["export", str(straight), str(tmp_path / "out")]) == 0
    assert f"wrote {tmp_path / 'out'}" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(straight / "export")


def test_options_of_the_command(straight, tmp_path, capsys):
    newest = straight / "checkpoints" / "step-00000024"
    options = ["--dtype", "bfloat16", "--layout", "lite", "--shard-size", "100KB"]
    assert main(["export", str(newest), str(tmp_path / "out"), *options]) == 0
    model, tokenizer = homegrown.load(tmp_path / "out")
    trained, _ = homegrown.load(straight / "export")
    assert tokenizer is not None
    expected = trained.cast(torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert main(["export", str(newest), str(tmp_path / "more"), "--keep-unused"]) == 2
    assert "--keep-unused" in capsys.readouterr().err


def test_a_run_in_bfloat16_exports_its_weights_or_its_masters(dataset: TokenDataset, tmp_path):
    config = tiny.replaced(tiny.train_config(dataset.path, tmp_path / "run", steps=2), precision="bfloat16")
    run = open_run(config)
    for step in (1, 2):
        run.bench.stepper.step(step, run.bench.batch(step - 1))
    run.step = 2
    run.save()
    run.close()
    homegrown.save(run.model, run.tokenizer, tmp_path / "saved")
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "saved")

    export_checkpoint(tmp_path / "run", tmp_path / "masters", dtype=torch.float32)
    exported, _ = homegrown.load(tmp_path / "masters")
    name = "embed_tokens.weight"
    weight = run.model.state_dict()[name]
    master = run.bench.stepper.wanted()[f"{name}@0:{len(weight)}/master"]
    assert torch.equal(exported.state_dict()[name], master)
    assert not torch.equal(master, weight.float())


def cut(tensors: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The same state in pieces of some rows each."""
    pieces: dict[str, Tensor] = {}
    for text, tensor in tensors.items():
        key = Key.parse(text)
        if key is None or key.kind == "step":
            pieces[text] = tensor
            continue
        for start in range(key.start, key.stop, rows):
            stop = min(start + rows, key.stop)
            pieces[piece_key(key.name, start, stop, key.kind)] = tensor[start - key.start : stop - key.start]
    return pieces


def saved_in_pieces(group: Group, source: Path, out: Path) -> None:
    held = load_checkpoint(source)
    mine = {
        key: tensor for number, (key, tensor) in enumerate(cut(held.tensors, 5).items())
        if number * 7 % 11 % group.size == group.rank
    }  # fmt: skip
    with Checkpoints(out, keep=1, group=group) as checkpoints:
        checkpoints.save(held.step, mine, held.facts)
        assert checkpoints.wait()[0].error is None


def test_pieces_of_several_ranks_make_the_same_directory(straight, tmp_path):
    worlds.run(2, saved_in_pieces, straight / "checkpoints" / "step-00000024", tmp_path / "checkpoints")
    with pytest.warns(HubWarning, match="without a tokenizer"):
        export_checkpoint(tmp_path, tmp_path / "out")
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", straight / "export"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_what_is_no_whole_model_is_refused(straight, tmp_path):
    held = load_checkpoint(straight / "checkpoints" / "step-00000024")
    tensors = cut(held.tensors, 8)
    del tensors["lm_head.weight@16:24/master"]
    folder = save_checkpoint(tmp_path, 1, tensors, held.facts, 3)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight@24:32/master"):
        export_checkpoint(folder, tmp_path / "out")
    del held.tensors["router/1"]
    folder = save_checkpoint(tmp_path, 2, held.tensors, held.facts, 3)
    with pytest.raises(CheckpointError, match=r"rows 0 to 9 of parameter layers\.1\.mlp\.router\.e_score_correction"):
        export_checkpoint(folder, tmp_path / "out")
    folder = save_checkpoint(tmp_path, 3, held.tensors, {}, 3)
    with pytest.raises(CheckpointError, match="its facts do not name the model"):
        export_checkpoint(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_newest_checkpoint_is_passed_over_and_a_named_one_refused(straight, tmp_path, capsys):
    shutil.copytree(straight, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000024"
    state = newest / "rank-00000" / "__0_0.distcp"
    state.write_bytes(state.read_bytes()[:-9])
    assert main(["export", str(newest), str(tmp_path / "out")]) == 1
    assert str(state) in "".join(capsys.readouterr().err.split())
    export_checkpoint(tmp_path / "run", tmp_path / "out")
    before, _ = homegrown.load(tmp_path / "out")
    held = load_checkpoint(straight / "checkpoints" / "step-00000020").tensors
    assert torch.equal(before.state_dict()["norm.weight"], held["norm.weight@0:32/master"])
