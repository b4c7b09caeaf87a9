"""Two engines in one process: one computes prompts, the other answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from homegrown.model import Longcat
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.spread.decode import DecodeEngine
from homegrown.serve.spread.prefill import PrefillEngine
from homegrown.serve.spread.prompts import Prompts
from homegrown.serve.spread.streams import PrefillServer
from homegrown.serve.spread.transfer import shape_of
from tests.serve.engine.driving import CHUNK

SECRET = b"of both sides"


def options(**changes: Any) -> EngineOptions:
    return EngineOptions(
        **{"page_size": 8, "pages": 100, "chunk": CHUNK, "step_ms": 1e6, "max_running": 6, "invariant": True, **changes}
    )


@contextmanager
def prefilling(model: Longcat, address: str, chosen: EngineOptions) -> Iterator[PrefillEngine]:
    """An engine that listens. Somebody must call its steps: they are between those of the other engine, since how ops
    are computed is a setting of the whole process."""
    server = PrefillServer(address, SECRET, shape_of(model.config, chosen, model.norm.weight), lambda: None)
    engine = PrefillEngine(model, chosen, None, None, server)
    yield engine
    server.close()
    while not engine.idle:
        engine.step()
    engine.check()
    assert engine.stats().pages_used == 0


@contextmanager
def decoding(model: Longcat, addresses: list[str], chosen: EngineOptions, own: int = 0) -> Iterator[DecodeEngine]:
    """An engine that is connected to everybody at these addresses."""
    prompts = Prompts(addresses, SECRET, shape_of(model.config, chosen, model.norm.weight))
    deadline = time.monotonic() + 20
    while len(prompts.connected) < len(addresses) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield DecodeEngine(model, chosen, None, None, prompts, own)
    finally:
        prompts.close()


def at(folder: Path, name: str = "prompts") -> str:
    return f"unix:{folder / name}"
