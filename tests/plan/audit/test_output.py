"""Files, pages and the command."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from homegrown.cli.main import main
from homegrown.plan.audit import shipped
from homegrown.plan.audit.export import COLUMNS, to_csv, to_json
from homegrown.plan.audit.page import render
from homegrown.plan.audit.words import headline


def test_json_holds_what_was_found(audited):
    audit = audited("longcat-2.0")
    found = json.loads(to_json(audit))
    assert found["version"] == 1
    assert found["verdict"]["readings"] == {"consistent": 48, "contradictory": 24, "cannot be decided": 0}
    assert len(found["cases"]) == 72
    usual = found["cases"][0]["outcomes"]
    assert usual["pace_device"]["value"] == pytest.approx(231.48, abs=0.01)
    assert usual["pace_device"]["from"] == "pace ÷ devices"
    assert found["statements"][4] == {
        "id": "tokens", "quantity": "tokens", "part": "", "text": "> 35T tokens", "value": 35e12, "low": 35e12,
        "high": 43.75e12, "says": "It was pretrained on more than 35 trillion tokens.", "mark": "A-",
        "source": audit.claim.statements[4].source, "date": "2026-06-30", "computed_from": [],
    }  # fmt: skip
    assert {item["verdict"] for item in found["comparisons"]} == {"a tie", "different", "cannot be decided"}


@pytest.mark.parametrize("name", shipped())
def test_every_claim_goes_into_every_form(audited, known, name):
    audit = audited(name)
    assert json.loads(to_json(audit))["claim"]["name"] == name
    rows = list(csv.DictReader(io.StringIO(to_csv(audit))))
    assert tuple(rows[0]) == COLUMNS
    assert sum(row["kind"] == "statement" for row in rows) == len(audit.claim.statements)
    assert sum(row["kind"] == "reading" for row in rows) == len(audit.cases)
    page = render(audit, known)
    check_page(page)
    for item in audit.claim.statements:
        assert f">{item.id}</th>" in page


class _Page(HTMLParser):
    VOID = ("meta", "link", "br", "img", "path", "use", "rect")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert tag not in ("script", "iframe", "link")
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check_page(page: str) -> None:
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert all(link.startswith("#") and link[1:] in parser.ids for link in parser.links)
    assert not re.search(r"#0102|#0101", page), "a placeholder colour was left in a drawing"


def test_text_of_a_claim_is_never_markup(audit_table, known, capsys):
    from rich.console import Console

    from homegrown.plan.audit.show import tables

    said = {"id": "devices", "quantity": "devices", "value": 5, "says": "[bold]<b>five</b>[/nonsense]"}
    audit = audit_table({"title": "<script>alert(1)</script>", "statement": [said], "who": "[red]x"})
    page = render(audit, known)
    assert "<script" not in page and "<b>five" not in page
    for part in tables(audit, known):
        Console(width=200).print(part)
    assert "[bold]<b>five</b>[/nonsense]" in capsys.readouterr().out


def test_headlines(audited):
    first, *rest = headline(audited("longcat-2.0"))
    assert first.startswith("As usually read, consistent")
    assert "48 consistent, 24 contradictory" in first
    assert any("accelerator-hours" in sentence for sentence in rest)
    assert headline(audited("glm-5-100k-ascend"))[0].startswith("Cannot be decided under each of 3 readings")
    assert headline(audited("llama-1-65b"))[0].startswith("Consistent: ")


class TestCommand:
    def test_tables(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "160")
        assert main(["audit", "deepseek-v3"]) == 0
        out = capsys.readouterr().out
        for heading in (
            "What is said",
            "What that implies",
            "What fits what",
            "How it can be read",
            "What would settle it",
        ):
            assert heading in out
        assert "989 TFLOP/s dense bf16 of one package" in out
        assert "draft head not counted" in out

    def test_list(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        assert main(["audit", "--list"]) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in shipped())

    def test_files(self, capsys, tmp_path):
        paths = {form: tmp_path / f"out.{form}" for form in ("json", "csv", "html")}
        arguments = [word for form, path in paths.items() for word in (f"--{form}", str(path))]
        assert main(["audit", "llama-1-65b", *arguments]) == 0
        assert "What fits what" in capsys.readouterr().out
        assert json.loads(paths["json"].read_text())["verdict"]["best"] == "consistent"
        assert paths["csv"].read_text().startswith("kind,name,")
        check_page(paths["html"].read_text())

    def test_json_alone_on_stdout(self, capsys):
        assert main(["audit", "llama-1-65b", "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)["claim"]["name"] == "llama-1-65b"

    def test_a_file_and_data_of_ones_own(self, capsys, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "data/chips.toml").write_text(
            '[mine]\nlike = "h100"\ntitle = "Mine"\nmark = "A"\nsource = "me"\ndate = "2026"\n'
            'peak.bf16 = "500 TFLOP/s"\n'
        )
        (tmp_path / "claim.toml").write_text(
            'title = "mine"\n[basis]\nchip = "mine"\n[[statement]]\nid = "rate"\nquantity = "rate"\n'
            'value = "400.0 TFLOP/s"\nsays = "rate"\n'
        )
        assert main(["audit", str(tmp_path / "claim.toml"), "--data", str(tmp_path / "data"), "--json", "-"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["outcomes"]["utilisation"]["value"] == pytest.approx(0.8)

    @pytest.mark.parametrize(
        ("argv", "told"),
        [
            ([], "name one claim"),
            (["longcat-2.0", "--list"], "name one claim"),
            (["longcat-3"], "no claim 'longcat-3'"),
            (["llama-1-65b", "--json", "-", "--csv", "-"], "only one of them can be printed"),
        ],
    )
    def test_mistakes(self, capsys, argv, told):
        assert main(["audit", *argv]) == 2
        captured = capsys.readouterr()
        assert told in captured.err
        assert captured.err.count("\n") == 1
