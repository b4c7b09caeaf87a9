"""Plans as JSON and CSV."""

import csv
import dataclasses
import json

import pytest

from homegrown.plan.files import FORMAT, plan_json, write_csv, write_json
from tests.plan.made_plan import made_plan

PLAN = made_plan()


def test_json_holds_everything(tmp_path):
    write_json(PLAN, tmp_path / "plan.json")
    found = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    assert found == plan_json(PLAN)
    assert found["format"] == FORMAT
    assert (found["model"], found["devices"], found["command"]) == (PLAN.model, 50_000, PLAN.command)
    stage = found["stages"][1]
    best = PLAN.stages[1].best
    assert stage["figures"]["days"] == {"value": 4.1, "low": 4.1 / 1.3, "high": 4.1 * 1.3}
    assert stage["best"]["time"]["seconds"] == best.time.seconds
    assert stage["best"]["time"]["compute"] == dict(best.time.compute)
    assert stage["best"]["layout"]["devices"] == 49_152
    assert stage["best"]["memory"]["total"] == best.memory.total
    assert len(stage["others"]) == 2
    assert len(stage["timeline"]) == len(PLAN.stages[1].timeline)
    assert stage["basis"] == PLAN.stages[1].basis, "utilisation goes with its basis"


def test_json_has_no_numbers_that_are_none(tmp_path):
    broken = dataclasses.replace(PLAN.stages[0], tokens=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        write_json(dataclasses.replace(PLAN, stages=(broken,)), tmp_path / "plan.json")
    assert list(tmp_path.iterdir()) == [], "nothing half written is left behind"


def test_csv_has_a_line_for_each_layout(tmp_path):
    write_csv(PLAN, tmp_path / "plan.csv")
    with (tmp_path / "plan.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["stage"], line["rank"]) for line in lines] == [
        (name, rank) for name in ("8K", "128K", "1M") for rank in ("1", "2", "3")
    ]
    first, second = lines[0], lines[1]
    best = PLAN.stages[0].best
    assert float(first["step_s"]) == best.time.seconds
    assert float(first["memory.total"]) == best.memory.total
    assert float(first["exposed.ep"]) == best.time.exposed["ep"]
    assert float(first["figure.days.high"]) == PLAN.stages[0].figures["days"].high
    assert second["figure.days"] == "", "only the best layout was planned with"
    assert (second["layout.ep"], lines[2]["layout.ep"]) == ("256", "128")
    parts = ("compute.", "exposed.", "bubble", "optimizer", "imbalance", "straggler")
    together = sum(float(value) for name, value in first.items() if name.startswith(parts))
    assert together == pytest.approx(float(first["step_s"]), rel=1e-12)
