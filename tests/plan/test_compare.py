"""The same run on other chips: what must come out whatever the model of a step says."""

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from homegrown.cli.main import main
from homegrown.config import ConfigError
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.compare import compare
from homegrown.plan.compare_notes import priced
from homegrown.plan.compare_page import page
from homegrown.plan.compare_text import as_csv, as_json, notes, significant, tables
from homegrown.plan.course import course_of
from homegrown.plan.pins import Pins
from homegrown.plan.plan import Wishes
from homegrown.plan.quantity import Quantity
from tests.plan.clusters import exactly

WISHES = Wishes(worlds=8, batch=2**22, pins=Pins(pp=1, cp=1, tp=8, optimizer="adamw"))
COURSE = course_of("8K:1T")


@pytest.fixture(scope="module")
def catalogue():
    return Catalogue.load()


@pytest.fixture(scope="module")
def small(catalogue):
    return catalogue.shape("llama-3-8b")


def slower(cluster, name="half", **chip):
    """The same cluster with other chips."""
    return replace(cluster, name=name, chip=replace(cluster.chip, name=name, **chip))


@pytest.fixture(scope="module")
def comparison(catalogue, small):
    asked = catalogue.cluster("hgx-h100")
    return compare(
        small, asked, 64, [slower(asked, "twin"), catalogue.cluster("hgx-a100"), tiny(asked)], COURSE, WISHES,
        command="homegrown plan compare ...",
    )  # fmt: skip


def tiny(cluster):
    """Too little memory for anything, at no price."""
    little = slower(cluster, "tiny", memory=exactly(1e9), rental=None, capital=None, facts=("2026: <nobody> buys it",))
    return replace(little, title="Tiny & cheap")


class TestCompare:
    def test_a_twin_is_as_good(self, comparison):
        """Its figures go by other names, so they err on their own; the best guesses are equal."""
        twin = comparison.same_devices[0]
        assert twin.ratios["days"].value == pytest.approx(1)
        assert twin.ratios["usd"].value == pytest.approx(1)
        assert comparison.same_days[0].devices == 64

    def test_ratios_are_of_the_figures(self, comparison):
        other = comparison.same_devices[1]
        for name in ("days", "mwh", "usd"):
            expected = other.figures[name].value / comparison.asked.figures[name].value
            assert other.ratios[name].value == pytest.approx(expected)
        assert other.ratios["devices"].value == 1
        assert other.ratios["days"].value > 1.5

    def test_as_many_days_take_more_of_the_slower(self, comparison):
        """Device-hours hold, so that devices and power are exact for days that the plan met nearly."""
        asked, other = comparison.asked, comparison.same_days[1]
        assert other.figures["days"] == asked.figures["days"]
        assert other.figures["devices"].value > 1.5 * 64
        assert other.figures["devices"].value == pytest.approx(other.devices, rel=0.1)
        assert other.devices % 8 == 0
        hours = other.figures["devices"].value * other.figures["days"].value * 24
        assert other.figures["device_hours"].value == pytest.approx(hours)
        energy = other.figures["mw"].value * other.figures["days"].value * 24
        assert other.figures["mwh"].value == pytest.approx(energy)

    def test_ratios_are_surer_than_what_is_compared(self, catalogue, small):
        """With all that a chip is known by the same, what is uncertain for all clusters cancels."""
        asked = catalogue.cluster("hgx-h100")
        same = replace(asked, name="other", failures=asked.failures)
        found = compare(small, asked, 64, [same], COURSE, WISHES)
        days, ratio = found.same_devices[0].figures["days"], found.same_devices[0].ratios["days"]
        assert ratio.high / ratio.low < 1 + 0.5 * (days.high / days.low - 1)

    def test_what_cannot_run_says_why(self, comparison):
        for row in (comparison.same_devices[2], comparison.same_days[2]):
            assert "fits" in row.problem or "memory" in row.problem
            assert not row.figures

    def test_notes_are_dated(self, comparison):
        price = next(note for note in comparison.asked.notes if note.startswith("rent"))
        assert "USD an hour (2026-05, B: " in price
        assert "no price is known" in comparison.same_devices[2].notes

    @pytest.mark.parametrize("others", [[], ["hgx-h100"], ["hgx-a100", "hgx-a100"]])
    def test_refuses(self, catalogue, small, others):
        with pytest.raises(
            ConfigError, match=r"against = .*must name at least one cluster, none twice, and not 'hgx-h100'"
        ):
            compare(small, catalogue.cluster("hgx-h100"), 64, [catalogue.cluster(name) for name in others], COURSE)


class TestShown:
    def test_tables(self, comparison):
        console = Console(width=200, record=True, file=io.StringIO())
        for table in tables(comparison, 200):
            console.print(table)
        text = console.export_text()
        assert text.count("Llama 3 8B, 1T tokens, on 64 devices") == 1
        assert text.count("Devices for the same") == 1

    def test_narrow_tables_come_in_parts_and_lose_nothing(self, comparison):
        console = Console(width=80, record=True, file=io.StringIO())
        for table in tables(comparison, 40):
            console.print(table)
        text = console.export_text()
        assert text.count("on 64 devices") == text.count("Devices for the same") == 2
        assert "…" not in text

    def test_json_holds_everything(self, comparison):
        found = json.loads(as_json(comparison))
        assert found["asked"]["figures"]["days"]["value"] == comparison.asked.figures["days"].value
        assert [row["cluster"] for row in found["same_days"]] == ["twin", "hgx-a100", "tiny"]

    def test_csv(self, comparison):
        rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
        assert [row["question"] for row in rows] == ["asked", *["same devices"] * 3, *["same days"] * 3]
        assert float(rows[2]["days_ratio"]) == pytest.approx(comparison.same_devices[1].ratios["days"].value, rel=1e-5)
        assert rows[3]["days"] == ""
        assert rows[3]["problem"]

    def test_page_needs_nothing_else_and_trusts_nobody(self, comparison):
        text = page(comparison)
        assert "<script" not in text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "2026: &lt;nobody&gt; buys it" in text
        assert "Tiny &amp; cheap" in text
        assert text.count("<svg") == 8

    def test_notes(self, comparison):
        lines = list(notes(comparison))
        assert any(line.startswith("tiny, same days: ") for line in lines)
        assert any(line.startswith("  a device is a package of A100") for line in lines)

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (0.12345, "0.123"), (1.5, "1.50"), (41.26, "41.3"), (412.6, "413"), (50123, "50,100")],
    )
    def test_three_digits(self, value, text):
        assert significant(value) == text


class TestCommand:
    FLAGS = (
        *("plan", "compare", "--model", "llama-3-8b", "--tokens", "1T", "--sequence", "8K", "--batch", "4M"),
        *("--tp", "8", "--pp", "1", "--cp", "1", "--optimizer", "adamw", "--worlds", "4"),
        *("--cluster", "hgx-h100", "--devices", "64"),
    )

    def test_shows_and_writes(self, tmp_path, capsys):
        files = [tmp_path / name for name in ("out.json", "out.csv", "out.html")]
        written = [f"--{path.suffix[1:]}={path}" for path in files]
        assert main([*self.FLAGS, "--against", "HGX A100", *written]) == 0
        assert "Devices for the same" in capsys.readouterr().out
        assert json.loads(files[0].read_text())["command"].startswith("homegrown plan compare --model llama-3-8b")
        assert files[1].read_text().count("\n") == 4
        assert "hgx-a100" in files[2].read_text()

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ([], "--against: needed, as in `homegrown plan compare"),
            (["--against", "hgx-h10"], "no cluster 'hgx-h10' (did you mean 'hgx-h100'?)"),
            (["--against", "hgx-h100"], "must name at least one cluster, none twice, and not 'hgx-h100' itself"),
            (["--against", "hgx-a100", "--cost", "owned"], "cost owned: no price is known for H100 SXM 80GB"),
            (["--against", "hgx-a100", "--devices", "-5"], "devices = -5: must be at least 1"),
        ],
    )
    def test_one_sentence(self, flags, message, capsys):
        assert main([*self.FLAGS, *flags]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error


def test_price_is_told_with_its_interval():
    figure = Quantity(value=2.0, low=1.5, high=3.0, mark="B", source="a list", date="2026-05")
    assert priced(figure, "USD an hour") == "2.00 (1.50 to 3.00) USD an hour (2026-05, B: a list)"
