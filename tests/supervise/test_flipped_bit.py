"""A bit that flips in real training: found, the rank named, its slot passed over, the same bits in the end."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from homegrown.cli.faults import prepare
from homegrown.supervise.drill import Plan, stage
from homegrown.supervise.stage import losses

ROOT = Path(__file__).parents[2]
STEPS = 16


def plan_of(out: Path, what: str) -> Plan:
    config = prepare(out, steps=STEPS)

    def program(run: Path) -> list[str]:
        command = [
            "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.supervise.flipping", what, str(config),
            "--run", str(run), "--check.every", "1",
        ]  # fmt: skip
        return ["--command", shlex.join(command), "--run", str(run)]

    flags = ["--hang-after", "30", "--stall-after", "90", "--selftest", "true", "--spares", "1"]
    return Plan(program=program, workers=2, steps=STEPS, flags=flags, out=out)


@pytest.mark.slow
def test_a_flipped_bit_changes_nothing_in_the_end(tmp_path):
    runs = {}
    for what in ("nothing", "weight", "gradient"):
        runs[what] = tmp_path / what
        with stage(plan_of(tmp_path, what), runs[what]) as staged:
            assert staged.finish() == 0, what
    assert sorted(losses(runs["nothing"])) == list(range(1, STEPS + 1))
    for what in ("weight", "gradient"):
        assert losses(runs[what]) == losses(runs["nothing"]), what
        (verdict,) = (runs[what] / "faults").glob("verdict-rank-*.json")
        assert json.loads(verdict.read_text())["rank"] == 1, what
        told = (runs[what] / "supervisor.jsonl").read_text()
        assert "cordon" in told, what
