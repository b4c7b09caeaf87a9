"""What is shown and written of outcomes: tables, files, pages, the command."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from homegrown.cli.plan import run as plan
from homegrown.config import ConfigError, UsageError
from homegrown.plan.validate.files import FIELDS, to_csv, to_json
from homegrown.plan.validate.html import page
from homegrown.plan.validate.markdown import markdown
from homegrown.plan.validate.read import shipped_runs
from homegrown.plan.validate.replay import Outcome, replay_runs
from homegrown.plan.validate.scene import Scene
from homegrown.plan.validate.show import sentences, shown
from homegrown.plan.validate.summary import RIVALS, against, by_kind
from tests.plan.validate.made import TRAINING, write

PAGE = Path(__file__).parents[3] / "docs/validation.md"
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return replay_runs(shipped_runs(), Scene())


@pytest.fixture(scope="module")
def some(outcomes) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.run.id.startswith(("korthikanti", "deepseek-v3", "llama"))]


def alike(one: str, other: str) -> bool:
    """Whether two lines say the same, but for the last digits of their numbers, which another machine may round."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(a == b or abs(value(a) - value(b)) <= 1.01 * step(a, b) for a, b in pairs)


def value(number: str) -> float:
    return float(number.replace(",", ""))


def step(*numbers: str) -> float:
    """One of the last digit that is shown: four significant ones where there is no decimal point."""
    return max(
        10.0 ** -len(number.partition(".")[2]) if "." in number else 10.0 ** max(0, len(number.replace(",", "")) - 4)
        for number in numbers
    )


class TestPage:
    def test_the_page_of_the_docs_is_true(self, outcomes):
        """docs/validation.md says what the planner says today; `python tools/validation_page.py` writes it anew."""
        written, said = PAGE.read_text("utf-8").splitlines(), markdown(outcomes).splitlines()
        assert len(written) == len(said), "rows differ"
        different = [(one, other) for one, other in zip(written, said, strict=True) if not alike(one, other)]
        assert not different, "the planner says something else now: run tools/validation_page.py and read what changed"

    def test_numbers_may_differ_by_a_rounding_only(self):
        assert alike("| 13.75 s | +3.1 % | 180,000 h |", "| 13.76 s | +3.2 % | 180,100 h |")
        assert not alike("| 13.75 s |", "| 13.78 s |")
        assert not alike("| +3.1 % |", "| +3.4 % |")
        assert not alike("| hit |", "| miss |")

    def test_every_published_figure_is_on_it(self, outcomes):
        text = markdown(outcomes)
        for outcome in outcomes:
            assert f"| {outcome.run.id} " in text or f"| {outcome.run.id} @" in text
            assert outcome.run.source in text
        missed = [one for one in outcomes if one.missed and not one.published.uncounted]
        assert text.split("## What is missed")[1].count("\n- ") == len(missed)


class TestAccuracy:
    """What the table must come to; it is no fit, so it may fail when the model is changed for the worse."""

    @pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.figure)
    def test_better_than_the_best_published_model(self, outcomes, rival):
        ours = against(rival, outcomes)
        assert ours is not None
        assert ours.figures == 8
        assert ours.mean < rival.mean
        assert ours.largest < rival.largest

    def test_work_and_parameters_are_counted_right(self, outcomes):
        (work,) = [summary for summary in by_kind(outcomes) if summary.name == "work"]
        assert work.mean < 0.01

    def test_shares_of_the_whole(self, outcomes):
        *kinds, everything = by_kind(outcomes)
        assert everything.figures == sum(summary.figures for summary in kinds)
        assert everything.inside == sum(summary.inside for summary in kinds)


class TestFiles:
    def test_json(self, some):
        document = json.loads(to_json(some))
        assert len(document["outcomes"]) == len(some)
        first = document["outcomes"][0]
        assert set(first) == set(FIELDS)
        assert first["low"] <= first["predicted"] <= first["high"]
        assert {"rival", "ours"} == set(document["compared"][0])

    def test_csv(self, some):
        rows = list(csv.DictReader(io.StringIO(to_csv(some))))
        assert [row["run"] for row in rows] == [outcome.run.id for outcome in some]
        assert float(rows[0]["error"]) == some[0].error

    def test_html_is_self_contained(self, some):
        text = page(some)
        assert "<script" not in text
        assert not re.search(r'(?:src|href)="(?!#)', text)
        assert text.count("<svg") >= 2
        assert text.count("korthikanti-22b-full") >= 2
        assert text == page(some)


class TestTerminal:
    @pytest.mark.parametrize("width", [80, 140])
    def test_nothing_is_cut_off(self, some, width):
        console = Console(width=width, file=io.StringIO())
        for table in shown(some, width):
            console.print(table)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in text
        assert all(len(line) <= width for line in text.splitlines())
        assert ("80 % interval" in text) == (width == 140)

    def test_misses_have_reasons(self, some):
        lines = list(sentences(some))
        for outcome in some:
            if outcome.missed and not outcome.published.uncounted:
                assert any(line.startswith(outcome.run.id) and outcome.reason in line for line in lines)
        assert "published figures are hit" in lines[-1]


class TestCommand:
    def test_own_runs(self, tmp_path, capsys):
        file = write(tmp_path, TRAINING)
        written = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "html")}
        flags = [word for name, path in written.items() for word in (f"--{name}", str(path))]
        assert plan(["validate", "--runs", str(file), "--worlds", "8", *flags]) == 0
        assert "1 of 1 published figures are hit" in capsys.readouterr().out
        assert all(path.stat().st_size > 100 for path in written.values())

    def test_only(self, capsys):
        assert plan(["validate", "--only", "work-kimi-k2", "--worlds", "2"]) == 0
        assert "work-kimi-k2" in capsys.readouterr().out

    def test_mistakes(self, tmp_path):
        with pytest.raises(ConfigError, match="no such file"):
            plan(["validate", "--runs", str(tmp_path / "none.toml")])
        with pytest.raises(UsageError, match="an interval needs at least 2"):
            plan(["validate", "--worlds", "1"])
        with pytest.raises(ConfigError, match="no run 'xyz'"):
            plan(["validate", "--only", "xyz", "--worlds", "2"])
