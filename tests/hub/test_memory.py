"""Streaming: memory does not grow with the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from . import tiny

MIB = 1 << 20
RATIO = 14_000.0
"""n-gram tables of four times 14,000 * 64 rows of 12: 86 MB in bfloat16."""

PROBE = """
import sys
from pathlib import Path
import torch
import homegrown.hub, homegrown.model, homegrown.tokenizer
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
torch.zeros(1)
before = peak()
{work}
print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    tensors = tiny.weights("lite")
    for t in range(tiny.T):
        rows = int(RATIO * tiny.V) + 2 * t + 1
        tensors[f"model.ngram_embeddings.embedders.{t}.weight"] = torch.ones(rows, tiny.H // tiny.T).bfloat16()
    return tiny.write(folder / "in", tiny.CONFIGS["lite"] | {"ngram_vocab_size_ratio": RATIO}, tensors)


def growth(work):
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(work=work)], capture_output=True, text=True, check=True, timeout=120
    )
    return int(run.stdout)


needs_status = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of peak memory")


@needs_status
def test_peaks(large, tmp_path):
    size = (large / "model.safetensors").stat().st_size
    assert size > 80 * MIB
    # Conversion holds one 64 MiB stage and a piece of the source in the other dtype, whatever the size; the same dtype
    # needs the stage alone.
    assert growth(f"homegrown.hub.convert({str(large)!r}, {str(tmp_path / 'out')!r})") < 72 * MIB
    # Loading needs the weights and little else.
    assert growth(f"model, _ = homegrown.hub.load({str(large)!r})") < size + 24 * MIB
