"""The package on an accelerator it has never heard of: same bits as on the CPU, alone and between two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from homegrown.bench.doctor.report import read
from homegrown.config import to_toml

from .. import madeup
from ..parallel.spawn import spawn
from ..train import tiny
from .inside import CASES, run_cases


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What every case came to in each of two processes."""
    with pytest.MonkeyPatch.context() as patch, madeup.present():
        patch.setenv("MADEUP_WORK", str(tmp_path_factory.mktemp("madeup")))
        return spawn(2, run_cases, device=madeup.DEVICE)


@pytest.mark.parametrize("name", CASES)
def test_on_the_made_up_device(outcomes: list[dict[str, str]], name: str) -> None:
    for rank, found in enumerate(outcomes):
        assert found[name] == "", f"rank {rank}:\n{found[name]}"


@pytest.mark.slow
def test_the_self_test_finds_it_sound(tmp_path: Path) -> None:
    """`homegrown doctor` under torchrun: its kernels, its collectives, and the plugin's name and version."""
    file = tmp_path / "report.json"
    command = ["torchrun", "--nproc-per-node", "2", "--module", "homegrown", "doctor", "--quick", "--json", str(file)]
    variables = {**os.environ, **madeup.environment(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    nodes = read(file).nodes
    assert [(node.origin.device["type"], node.origin.versions["abacus"]) for node in nodes] == [("abacus", "1.0")] * 2
    assert {result.size for node in nodes for result in node.collectives} == {2}


@pytest.mark.slow
def test_a_whole_run_leaves_the_same_files(tmp_path: Path) -> None:
    """`homegrown train` with `device = "auto"`: checkpoints and export have the CPU's bytes."""
    dataset = tiny.write_tokens(tiny.write_corpus(tmp_path / "corpus"), tmp_path / "data")
    runs = {}
    for device, variables in (("cpu", {}), ("auto", madeup.environment())):
        runs[device] = tmp_path / device
        config = tiny.replaced(
            tiny.train_config(dataset.path, runs[device], device=device, steps=4),
            optim__muon_dtype="float32", optim__ngram_rows="all",
        )  # fmt: skip
        file = tmp_path / f"{device}.toml"
        file.write_text(to_toml(config))
        command = [sys.executable, "-m", "homegrown", "train", str(file)]
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert '"type": "abacus"' in (runs["auto"] / "environment.json").read_text()
    for step in (2, 4):
        assert tiny.final_state(runs["cpu"], step) == tiny.final_state(runs["auto"], step)
    assert tiny.story(runs["cpu"]) == tiny.story(runs["auto"])
    weights = "export/model.safetensors"
    assert (runs["cpu"] / weights).read_bytes() == (runs["auto"] / weights).read_bytes()
