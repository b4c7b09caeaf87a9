"""Figures of data files: their intervals, their marks, what is refused."""

import math

import pytest

from homegrown.config import ConfigError
from homegrown.plan.quantity import SPREAD, Quantity
from homegrown.plan.reading import MARKS, Entry, Origin, doubted, product, read_constants, read_figure
from homegrown.plan.units import MEMORY, POWER

HERE = Origin("A", "a page", "2026")


def figure(value, origin=HERE, read=POWER):
    return read_figure(value, "mine.toml: chip.power", read, origin)


def test_text_takes_mark_and_source_of_its_entry():
    assert figure("700 W") == Quantity(value=700, low=700 / 1.02, high=714, mark="A", source="a page", date="2026")


@pytest.mark.parametrize("mark", [mark for mark in MARKS if mark != "gap"])
def test_mark_makes_the_interval(mark):
    found = figure({"value": "100 W", "mark": mark})
    assert (found.low, found.high) == (100 / SPREAD[mark], 100 * SPREAD[mark])


def test_ends_without_a_value_have_their_geometric_mean():
    found = figure({"low": "310 W", "high": "700 W", "mark": "gap", "source": "never published"})
    assert found.value == pytest.approx(math.sqrt(310 * 700))
    assert (found.low, found.high, found.mark, found.date) == (310, 700, "gap", "2026")


def test_one_end_leaves_the_other_to_the_mark():
    found = figure({"value": "700 W", "high": "1 kW", "mark": "B"})
    assert (found.low, found.high) == (700 / 1.1, 1000)


@pytest.mark.parametrize(
    ("value", "origin", "words"),
    [
        ("700 W", Origin(), "mark = None: must say how far the figure can be trusted: A, A-, B, C, gap"),
        ("700 W", Origin("A"), "'source' is missing"),
        ({"value": "700 W", "mark": "D"}, HERE, "mark = 'D'"),
        ({"value": "700 W", "hihg": "800 W"}, HERE, "unknown key 'hihg' (did you mean 'high'?)"),
        ({"mark": "A"}, HERE, "'value' is missing; it must be a power, as in '700 W', or both 'low' and 'high'"),
        ({"low": "300 W"}, HERE, "'value' is missing"),
        ({"value": "700 W", "mark": "gap"}, HERE, "a gap must say between which bounds"),
        ({"low": "300 W", "mark": "gap"}, HERE, "a gap must say between which bounds"),
        ({"value": "700 W", "low": "800 W"}, HERE, "its interval, from 800 W to 714, must hold its value"),
        ({"value": "700 W", "high": "600 W"}, HERE, "from 686.275 to 600 W"),
        ({"low": "1 W", "high": "2 kW"}, HERE, "within a factor of 1000"),
        ({"value": "700 W", "low": "600"}, HERE, "chip.power.low = '600': needs a unit"),
        ({"value": "700 W", "source": 3}, HERE, "must be texts"),
        ([700], HERE, "must be a power"),
    ],
)
def test_bad_figures_are_refused_in_a_sentence(value, origin, words):
    with pytest.raises(ConfigError) as error:
        figure(value, origin)
    assert "mine.toml: chip.power" in str(error.value)
    assert words in str(error.value)


def test_product_adds_independent_errors():
    one = Quantity(value=100, low=50, high=200, mark="A", source="s", note="n")
    found = product(one, Quantity(value=0.5, low=0.25, high=1.0, mark="B"), "half")
    assert found.value == 50
    assert math.log(found.high / 50) == pytest.approx(math.sqrt(2) * math.log(2))
    assert math.log(50 / found.low) == pytest.approx(math.sqrt(2) * math.log(2))
    assert (found.mark, found.source, found.note) == ("B", "s", "n; half")


def test_an_alike_entry_cannot_be_trusted_more_than_its_likeness():
    exact = Quantity.marked(100, "A", "data sheet")
    found = doubted(exact, Origin("C", "somebody says so"))
    assert (found.mark, found.low, found.high) == ("C", 100 / 1.35, 135.0)
    assert found.source == "somebody says so; data sheet"
    assert doubted(exact, Origin("A", "x")) is exact
    rough = Quantity.marked(100, "gap", "none")
    assert doubted(rough, Origin("B", "x")) is rough


def test_constants_have_any_unit():
    table = {
        "mark": "B",
        "source": "reason",
        "share": {"value": "75 %", "low": 0.6, "high": 0.9},
        "factor": 1.1,
        "launch": "4 us",
        "buffer": "10 GiB",
        "draw": "60 W",
    }
    found = read_constants(table, "model.toml")
    assert {name: figure.value for name, figure in found.items()} == {
        "share": 0.75,
        "factor": 1.1,
        "launch": 4e-6,
        "buffer": 10 * 2**30,
        "draw": 60.0,
    }
    with pytest.raises(ConfigError, match=r"model.toml: launch = '4 parsecs'"):
        read_constants({**table, "launch": "4 parsecs"}, "model.toml")


def test_entry_refuses_what_nobody_asked_for():
    entry = Entry({"memory": "80 GB", "memroy": "90 GB", "mark": "A", "source": "s"}, "x.toml: y")
    assert entry.figure("memory", MEMORY).value == 80e9
    with pytest.raises(ConfigError, match=r"x.toml: y: unknown key 'memroy' \(did you mean 'memory'\?\)"):
        entry.done()
    with pytest.raises(ConfigError, match=r"x.toml: y = 'text': must be a table"):
        Entry("text", "x.toml: y")
    with pytest.raises(ConfigError, match=r"x.toml: y.mark = 'Z': must be one of 'A', 'A-', 'B', 'C', 'gap'"):
        Entry({"mark": "Z"}, "x.toml: y")
