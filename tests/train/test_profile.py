"""The profiler switch."""

from __future__ import annotations

import json

from rich.console import Console

from homegrown.train.pretrain import pretrain

from . import tiny


def test_a_trace_of_some_steps(dataset, tmp_path):
    """Chrome's trace format: the steps' operators are in it, and the steps before are not."""
    config = tiny.train_config(dataset.path, tmp_path / "run", steps=5, profile_steps=2)
    pretrain(config, Console(quiet=True), compare=False)
    trace = json.loads((tmp_path / "run/profile/rank-00000.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert "aten::mm" in names
    # One backward pass of the whole loss per micro-batch.
    assert sum(name.startswith("autograd::engine::evaluate_function: MulBackward") for name in names) > 0
    config = tiny.train_config(dataset.path, tmp_path / "short", steps=2, profile_steps=5)
    pretrain(config, Console(quiet=True), compare=False)
    assert (tmp_path / "short/profile/rank-00000.json").exists()
