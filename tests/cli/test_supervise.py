"""What `homegrown supervise` makes of a run's config."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.train import tiny

from homegrown.cli.supervise import layout_exists
from homegrown.config import ParallelConfig


@pytest.mark.parametrize(
    ("sizes", "worlds"),
    [({}, {1, 2, 4}), ({"tp": 2}, {2, 4, 8}), ({"pp": 2, "ep": 2}, {4, 8}), ({"dp": 2}, {2})],
)
def test_a_run_goes_on_with_as_many_workers_as_a_layout_takes(sizes, worlds):
    """Four rows a step, one a micro-batch: data-parallel sizes are 1, 2 and 4."""
    config = tiny.replaced(tiny.train_config(Path("unused")), data__micro_batch=1, parallel=ParallelConfig(**sizes))
    assert {world for world in range(1, 9) if layout_exists(config, world)} == worlds
