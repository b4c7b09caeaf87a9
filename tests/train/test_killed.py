"""`kill -9` at any moment leaves a checkpoint to go on from, and the run ends as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from homegrown.ledger import Ledger

from . import tiny

KILLS = 6


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bits(run_file, straight, tmp_path):
    run = tmp_path / "run"
    file = tmp_path / "run.toml"
    file.write_text(run_file.read_text().replace(str(straight), str(run)))
    command = [sys.executable, Path(__file__).with_name("killing.py"), file, str(KILLS), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    assert len(kills) == KILLS
    assert sum(kill["killed"] for kill in kills) >= KILLS - 1, "the run was too short for the kills"
    reached = [kill["step"] for kill in kills]
    assert any(kill["leftovers"] for kill in kills), "no kill met a save"
    assert [kill["complaints"] for kill in kills] == [[]] * KILLS
    first = next(number for number, step in enumerate(reached) if step is not None)
    assert None not in reached[first:], "once there is a checkpoint there always is"
    assert reached[first:] == sorted(reached[first:])

    assert tiny.final_state(run, 24) == tiny.final_state(straight, 24)
    assert tiny.story(run) == tiny.story(straight)
    assert not list((run / "checkpoints").glob(".*")), "leftovers of killed saves are gone"
    records = Ledger.read(run / "ledger.jsonl")
    assert [record.kind for record in records if record.kind in ("start", "end")] == ["start", "end"]
