from __future__ import annotations

from importlib import import_module

import pytest


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ops that work block by block cut these short sequences, too: edges fall inside documents and selections."""
    # By import_module: as attributes of the package these names are the ops, not their modules.
    monkeypatch.setattr(import_module("homegrown.ops.attention"), "CHUNK", 7)
    monkeypatch.setattr(import_module("homegrown.ops.cross_entropy"), "CHUNK_BYTES", 4 * 97 * 5)
