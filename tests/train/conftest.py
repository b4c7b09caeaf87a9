from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from homegrown.data import TokenDataset

from . import tiny


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    return tiny.write_tokens(corpus, tmp_path_factory.mktemp("datasets") / "tiny")


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """A workbench sets threads and determinism for its process; tests of other rooms are to see none of it."""
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled
