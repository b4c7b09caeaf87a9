"""Metrics survive crashes and go back with a resumed run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from homegrown.ledger import MetricsError, MetricsWriter, read_metrics


def write_steps(path: Path, steps: range) -> None:
    with MetricsWriter(path) as metrics:
        for step in steps:
            metrics.write("train", step=step, loss=1 / step, note="snow ☃")
            if step % 2 == 0:
                metrics.write("eval", step=step, bpb=2.0, final=False)


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    write_steps(path, range(1, 4))
    assert [(line["kind"], line["step"]) for line in read_metrics(path)] == [
        ("train", 1), ("train", 2), ("eval", 2), ("train", 3),
    ]  # fmt: skip
    assert path.read_text().startswith('{"kind":"train","step":1,"loss":1.0,')


def test_each_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write("train", step=1)
        assert len(read_metrics(metrics.path)) == 1


def test_nan_is_kept_and_the_file_stays_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write("train", step=1, loss=math.nan, grad_norm=math.inf, indexer_loss=None)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    (line,) = read_metrics(path)
    assert math.isnan(line["loss"])
    assert (line["grad_norm"], line["indexer_loss"]) == (math.inf, None)


def test_rewind_keeps_what_the_resumed_run_has_done(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(1, 6))
    straight = path.read_bytes()
    with MetricsWriter(path) as metrics:
        metrics.rewind(3)
        assert [line["step"] for line in read_metrics(path)] == [1, 2, 2, 3]
    write_steps(path, range(4, 6))
    assert path.read_bytes() == straight
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_failed_rewind_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(1, 4))
    before = path.read_bytes()
    with MetricsWriter(path) as metrics:
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("stopped")))
        with pytest.raises(OSError, match="stopped"):
            metrics.rewind(1)
        assert path.read_bytes() == before
        metrics.write("train", step=4)
    assert read_metrics(path)[-1]["step"] == 4


def test_a_file_cut_at_any_byte_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(1, 4))
    intact = path.read_bytes()
    whole = read_metrics(path)
    for cut in range(len(intact) + 1):
        path.write_bytes(intact[:cut])
        kept = whole[: intact[:cut].count(b"\n")]
        assert read_metrics(path) == kept
        with MetricsWriter(path) as metrics:
            metrics.write("event", step=9, event="resume")
        assert read_metrics(path) == [*kept, {"kind": "event", "step": 9, "event": "resume"}]


@pytest.mark.parametrize("line", ['{"kind":"train","step":1', "[]", '{"step":1}', '{"kind":"x","step":1.5}'])
def test_damage_before_the_last_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"kind":"train","step":1}}\n{line}\n{{"kind":"train","step":3}}\n')
    with pytest.raises(MetricsError, match=r"metrics\.jsonl, line 2: "):
        read_metrics(path)
    with pytest.raises(MetricsError, match=r"metrics\.jsonl, line 2: "):
        MetricsWriter(path)


def test_a_whole_last_line_that_is_no_metric_is_not_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind":"train"}\n')
    with pytest.raises(MetricsError, match="line 1: not an object with a kind and a whole-numbered step"):
        MetricsWriter(path)


def test_values_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics, pytest.raises(TypeError, match="loss is a set"):
        metrics.write("train", step=1, loss={1})
    assert read_metrics(tmp_path / "metrics.jsonl") == []
