from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode models that are made in the test by PyTorch's operators."""
    monkeypatch.setattr("homegrown.model.native.native_reason", lambda model: "a test")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On matrices this small threads only wait for each other, and on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
