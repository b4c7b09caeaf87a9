"""Records that are partial, damaged or hostile: the page says so, makes nothing up and runs nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from page_tree import Node, parse
from synthetic_run import FINAL_BPB, Shape, write_run

from homegrown.ledger import Ledger, MetricsWriter
from homegrown.report import ReportError, write_report

SMALL = Shape(steps=16, layers=1)
AGAINST = "compressor it was measured against."


def record(path: Path) -> None:
    """A record of a few steps with one curve to draw."""
    with Ledger.create(path / "ledger.jsonl") as ledger, MetricsWriter(path / "metrics.jsonl") as metrics:
        for step in range(1, 16):
            ledger.append("step", step=step)
            metrics.write("train", step=step, bpb=9.0 / step)


def report(path: Path) -> Node:
    return parse(write_report(path).read_text("utf-8"))


def missing(page: Node, slug: str) -> list[str]:
    return [note.text() for note in page.one("section", id=slug).all("p", class_="missing")]


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="no such run directory"):
        write_report(tmp_path / name)


def test_an_empty_directory_is_refused_with_what_a_run_holds(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"not a run directory; one holds config\.toml, environment\.json, "):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    Ledger.create(tmp_path / "ledger.jsonl").close()
    page = report(tmp_path)
    for slug in ("result", "samples", "loss", "optimisation", "experts", "router", "active", "tokens", "throughput",
                 "energy", "times", "environment", "config"):  # fmt: skip
        assert missing(page, slug), slug
    assert not page.all("figure")
    assert not page.all("aside")
    assert "Records 0" in page.one("section", id="ledger").text()
    assert "Start not recorded." in page.one("header").text()


@pytest.mark.parametrize(
    ("name", "slugs"),
    [
        ("config.toml", {"config"}),
        ("environment.json", {"environment"}),
        ("ledger.jsonl", {"ledger"}),
        ("metrics.jsonl", {"samples", "optimisation", "router"}),
        ("analysis.json", {"result", "tokens", "times", "active", "energy", "throughput"}),
    ],
)
def test_a_file_alone_fills_its_sections_and_no_other(
    finished_run: Path, tmp_path: Path, name: str, slugs: set
) -> None:
    shutil.copy(finished_run / name, tmp_path)
    page = report(tmp_path)
    assert {node.attrs["id"] for node in page.all("section") if not node.all("p", class_="missing")} == {*slugs, "next"}
    assert not page.all("aside")


def test_without_analysis_the_last_score_counts_and_is_named(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write("eval", step=8, bpb=2.0, final=False)
        metrics.write("eval", step=16, bpb=FINAL_BPB, final=True)
    text = report(tmp_path).one("section", id="result").text()
    assert "1.422 bits per byte, held out" in text
    assert "The run's last score, at step 16, on the whole held-out split" in text
    assert "nothing to compare the score with" in text


@pytest.mark.parametrize(
    ("bpb", "verdict"),
    [
        (1.0, f"Better than every {AGAINST} It needs 50.0 % fewer bits than b, the best of them."),
        (5.0, f"Not better than any {AGAINST} It needs 150.0 % more bits than b, the best of them."),
        (3.0, "Better than a: 25.0 % fewer bits. It needs 50.0 % more bits than b."),
    ],
)
def test_the_verdict_is_honest(tmp_path: Path, bpb: float, verdict: str) -> None:
    (tmp_path / "analysis.json").write_text(json.dumps({"heldout": {"bpb": bpb}, "baselines": {"a": 4.0, "b": 2.0}}))
    assert report(tmp_path).one("p", class_="verdict").text() == verdict


def test_a_damaged_ledger_is_reported_and_the_rest_is_shown(tmp_path: Path) -> None:
    record(tmp_path)
    ledger = tmp_path / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join([*lines[:3], lines[3].replace('"step":4', '"step":5'), *lines[4:]]))
    page = report(tmp_path)
    fault = "ledger.jsonl, line 4: the content does not match its hash: it was changed after it was written"
    assert fault in page.one("aside", class_="problems").text()
    text = page.one("section", id="ledger").text()
    assert "Records 3 Chain verified No" in text
    assert fault in text
    assert json.loads(lines[2])["hash"] in text
    assert page.one("section", id="loss").all("figure")


def test_a_live_run_with_torn_last_lines(tmp_path: Path) -> None:
    record(tmp_path)
    for name in ("ledger.jsonl", "metrics.jsonl"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-30])
    page = report(tmp_path)
    assert "torn" in page.one("aside").text()
    assert page.one("section", id="loss").all("figure")


def test_a_damaged_metrics_line_keeps_those_before_it(tmp_path: Path) -> None:
    record(tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:10], "{\n", *lines[10:]]))
    page = report(tmp_path)
    assert "metrics.jsonl, line 11: " in page.one("aside").text()
    assert page.one("section", id="loss").all("figure")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("analysis.json", "{", "analysis.json: cannot be read"),
        ("analysis.json", "[]", "analysis.json: not a JSON object"),
        ("analysis.json", '{"heldout": {"bpb": "low"}}', "analysis.json: heldout: Expected `float`, got `str`"),
        ("analysis.json", '{"energy": {"joules": 1, "source": "guess"}}', "must be 'counter:NAME' or 'estimate'"),
        ("analysis.json", '{"active_histogram": {"active_params": [1], "fraction": []}}', "1 active_params but 0 frac"),
        ("environment.json", "nonsense", "environment.json: cannot be read"),
        ("config.toml", "steps = ", "config.toml: not valid TOML"),
        ("config.toml", "stepz = 3", "unknown key 'stepz'"),
    ],
)
def test_a_damaged_file_is_a_problem_and_not_a_crash(tmp_path: Path, name: str, text: str, problem: str) -> None:
    record(tmp_path)
    (tmp_path / name).write_text(text)
    page = report(tmp_path)
    assert problem in page.one("aside", class_="problems").text()
    assert page.one("section", id="loss").all("figure")


def test_nothing_that_came_from_data_becomes_markup(tmp_path: Path) -> None:
    evil = "</pre></div><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7*7 }}$x$\x00\x1b\ud800"
    path = tmp_path / "<b>run"
    write_run(path, SMALL)
    with MetricsWriter(path / "metrics.jsonl") as metrics:
        metrics.write("sample", step=16, prompt=evil, text=evil)
        metrics.write("event", step=16, event=evil, detail={evil: evil})
    with Ledger.open(path / "ledger.jsonl") as ledger:
        ledger.append(evil, **{evil: evil})
    analysis = json.loads((path / "analysis.json").read_text())
    analysis["token_compute"] = {"title": evil, "tokens": [[evil, 1.0, 2.0], ["\n", 3.0, 4.0]]}
    analysis["baselines"] = {evil: 2.0}
    analysis["times"] = {evil: 2.0, **analysis["times"]}
    analysis["energy"] |= {"source": f"counter:{evil}", "detail": evil}
    analysis["throughput"]["peak_flops"] = {evil: 1e11}
    (path / "analysis.json").write_text(json.dumps(analysis))
    (path / "environment.json").write_text(json.dumps({evil: evil, "device": {"name": evil}}))
    (path / "config.toml").write_text((path / "config.toml").read_text() + "# </pre><script>alert(3)</script>\n")
    page = report(path)
    assert not page.all("script") + page.all("img") + page.all("b", src="x")
    assert not [node for node in page.walk() if any(name.startswith("on") for name in node.attrs)]
    shown = evil.replace("\x00", "␀").replace("\x1b", "␛").replace("\ud800", "\ufffd")
    sample = page.one("section", id="samples").all("pre")[-1]
    assert sample.raw() == shown  # the text begins with its prompt, which is not shown twice
    for slug in ("result", "tokens", "times", "energy", "environment", "ledger"):
        assert "<script>alert(1)</script>" in page.one("section", id=slug).raw(), slug
    assert "<script>alert(3)</script>" in page.one("section", id="config").raw()
    assert "peak, </pre></div><scri…" in page.one("section", id="throughput").raw()
    assert page.one("h1").text() == "<b>run"


def test_numbers_that_are_none_do_not_break_the_page(tmp_path: Path) -> None:
    write_run(tmp_path, SMALL)
    analysis = {
        "heldout": {"bpb": float("nan")},
        "baselines": {"xz": float("inf"), "none": 0.0},
        "active_histogram": {"active_params": [1.0, 2.0], "fraction": [0.0, 0.0]},
        "token_compute": {"tokens": []},
        "throughput": {},
        "energy": {"joules": float("nan"), "source": "estimate"},
        "parameters": {"total": 5.0},
        "times": {"train": 0.0},
    }
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write("train", step=17, loss=None, bpb="high", expert_load=[[0.5], []], grad_norm=float("-inf"))
        metrics.write("eval", step=17, bpb=None)
        metrics.write("sample", step=17, prompt=None, text=None)
    page = report(tmp_path)
    assert "not a number" in page.one("section", id="result").text()
    assert missing(page, "tokens") == ["Not recorded: compute per token."]


def test_a_term_measured_once_is_a_point(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        for step in range(1, 13):
            metrics.write(
                "train", step=step, elapsed_s=step * 0.5, tokens_per_s=9.0, indexer_loss=0.5 if step == 9 else None
            )
    page = report(tmp_path)
    lone, speed = page.one("section", id="loss").one("svg"), page.one("section", id="throughput").one("svg")
    dots = [use for use in lone.all("use") if "var(--series-1)" in (use.attrs.get("style") or "")]
    assert len(dots) == 1
    assert "0.5 at step 9, 0.5 at step 9" in (lone.attrs["aria-label"] or "")
    assert speed.raw().count("seconds") == 1


def test_all_tokens_alike_have_one_colour(tmp_path: Path) -> None:
    tokens = [["a", 4.0, 2e6], [" b", 4.0, 2e6]]
    (tmp_path / "analysis.json").write_text(json.dumps({"token_compute": {"tokens": tokens}}))
    node = report(tmp_path).one("section", id="tokens")
    assert "so there is one colour" in node.text()
    assert len({token.attrs["class"] for token in node.one("div", class_="coloured").all("span")}) == 1
