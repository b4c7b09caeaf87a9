from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from homegrown.cli.main import main
from homegrown.config import ParallelConfig, to_toml
from homegrown.data import TokenDataset
from homegrown.train.checkpoint import directory
from homegrown.train.pretrain import pretrain

from ..parallel.spawn import spawn
from . import corrupted, tiny


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    return tiny.write_tokens(corpus, tmp_path_factory.mktemp("datasets") / "tiny")


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """A workbench sets threads and determinism for its process; tests of other rooms are to see none of it."""
    with tiny.torch_settings():
        yield


@pytest.fixture(scope="session")
def run_file(dataset: TokenDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file of a run of 24 steps, its run directory beside it."""
    folder = tmp_path_factory.mktemp("straight")
    config = tiny.train_config(dataset.path, folder / "run", steps=24)
    config = tiny.replaced(config, eval__every_steps=8, eval__sample_every_steps=8, checkpoint__every_steps=5)
    (folder / "run.toml").write_text(to_toml(config))
    return folder / "run.toml"


@pytest.fixture(scope="session")
def straight(run_file: Path) -> Path:
    """That run, finished in one go by the command: what interrupted ones are compared with. Not to be changed."""
    with tiny.torch_settings():
        assert main(["train", str(run_file)]) == 0
    return run_file.parent / "run"


@pytest.fixture(scope="session")
def pair(dataset: TokenDataset, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, some of them wrong, see `corrupted.pair`; their run's directory under `folder`."""
    folder = tmp_path_factory.mktemp("pair")
    return [{**told, "folder": folder} for told in spawn(2, corrupted.pair, dataset.path, folder)]


@pytest.fixture(scope="session")
def four(dataset: TokenDataset) -> list[dict[str, Any]]:
    """The same of four processes, see `corrupted.four`."""
    return spawn(4, corrupted.four, dataset.path)


@pytest.fixture(scope="session")
def digested(dataset: TokenDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five steps that saves the third and the last, with digests of every second."""
    return _short_run(dataset, tmp_path_factory.mktemp("digests") / "straight")


@pytest.fixture(scope="session")
def digested_again(dataset: TokenDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, whose checkpoint of the last step was lost, done again from the third."""
    path = _short_run(dataset, tmp_path_factory.mktemp("digests") / "resumed")
    shutil.rmtree(directory(path / "checkpoints", 5))
    return _short_run(dataset, path)


def _short_run(dataset: TokenDataset, path: Path) -> Path:
    config = corrupted.config_of(
        dataset.path, ParallelConfig(), rows=1, run=path, steps=5, digest_every=2, checkpoint__every_steps=3,
        eval__every_steps=0, eval__sample_every_steps=0, eval__sample_prompts=(), eval__max_tokens=30,
    )  # fmt: skip
    pretrain(config, Console(quiet=True), compare=False)
    return path
