"""The HTML page of a plan: it stands by itself, shows what the plan says, and says what is missing."""

import dataclasses
import re

import pytest

from homegrown.plan.page import write_plan_page
from homegrown.plan.page.page import render
from homegrown.plan.results import KernelTime, Span
from tests.plan.made_plan import made_plan, spans
from tests.report.page_tree import parse

PLAN = made_plan()
SECTIONS = ["result", "step", "timeline", "roofline", "memory", "devices", "energy", "layouts", "assumptions"]


@pytest.fixture(scope="module")
def page(plan_page):
    return parse(plan_page.read_text("utf-8"))


def bare(**changes):
    """A plan of one stage that has nothing but its best layout, and `changes`."""
    nothing = {"kernels": (), "timeline": (), "capacity": 0.0, "figures": {}, "others": ()}
    stage = dataclasses.replace(PLAN.stages[0], **(nothing | changes))
    return dataclasses.replace(PLAN, stages=(stage,), totals={}, scales=())


def only(**changes):
    """The page of such a plan."""
    return parse(render(bare(**changes)))


def test_it_stands_by_itself(page):
    assert page.all("script") == []
    assert page.all("link") == []
    for node in page.walk():
        for key in ("src", "href"):
            assert (node.attrs.get(key) or "#").startswith("#"), node
    assert "default-src 'none'" in page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attrs["content"]


def test_sections_and_their_links(page):
    assert [node.attrs["id"] for node in page.all("section")] == [f"plan-{name}" for name in SECTIONS]
    assert [node.attrs["href"] for node in page.one("nav").all("a")] == [f"#plan-{name}" for name in SECTIONS]
    ids = [node.attrs["id"] for node in page.walk() if "id" in node.attrs]
    assert len(ids) == len(set(ids)), "ids of drawings beside one another are their own"


def test_result_has_days_first_and_all_figures(page):
    result = page.one("section", id="plan-result")
    assert result.one("p", class_="headline").text() == "35.3 days 80 % between 27.2 and 45.9 days"
    text = result.text()
    assert "Energy 67 GWh 44.7 to 100 GWh" in text
    rows = {row.one("th").text(): [cell.text() for cell in row.all("td")] for row in result.one("tbody").all("tr")}
    assert rows["Cost"][-1] == "$93 M $46.5 M to $186 M"
    assert rows["Step"] == ["10.5 s 8.09 to 13.7 s", "19.5 s 15 to 25.4 s", "86.7 s 66.7 to 113 s", ""]
    assert "Utilisation is a share of 486 TFLOP/s, the dense bf16 peak of X1 (a package)" in text


def test_every_figure_has_a_name_for_those_who_do_not_see_it(page):
    drawings = page.all("svg")
    assert len(drawings) == 3 * (1 + 2 + 2 + 1) + 3 + 3
    for drawing in drawings:
        assert drawing.attrs["role"] == "img"
        assert len(drawing.attrs["aria-label"]) > 40
    labels = [drawing.attrs["aria-label"] for drawing in drawings]
    assert any("expert" in label and "17.1" in label for label in labels)
    assert any("24 micro-batches pass forward and backward through 8 pipeline stages" in label for label in labels)


def test_colours_follow_the_theme(plan_page):
    text = plan_page.read_text("utf-8")
    assert "var(--series-1)" in text
    assert re.search(r"#0102?0\d", text) is None, "no placeholder colour is left"


def test_names_are_text(page):
    assert "Pods of X1 <b>" in page.one("p", class_="lead").text()


def test_layouts_and_assumptions(page):
    assert "TP2 CP16 PP8 DP192 EP256 EMBP64" in page.one("section", id="plan-layouts").text()
    assert "12,345 layouts looked at, 678 fit into memory" in page.one("section", id="plan-layouts").text()
    assumptions = page.one("section", id="plan-assumptions").text()
    assert "848 of 50,000 devices are left as spares" in assumptions
    assert PLAN.command in assumptions


def test_what_is_missing_is_said():
    page = only()
    assert "Kernels were not timed one by one" in page.one("section", id="plan-roofline").text()
    assert "Other numbers of devices were not planned" in page.one("section", id="plan-devices").text()
    assert "Neither energy nor cost was planned" in page.one("section", id="plan-energy").text()
    strip = page.one("section", id="plan-timeline").all("svg")[0].attrs["aria-label"]
    assert strip.startswith("10.5")
    assert "pipeline bubble" in strip, "without a pipeline's timeline, the parts of a step in order"
    assert "dashed" not in page.one("section", id="plan-memory").text()
    assert page.all("p", class_="headline") == []


def test_long_pipelines_are_drawn_in_part():
    page = only(timeline=spans(24, 140, 0.1, 0.2))
    caption = page.one("section", id="plan-timeline").text()
    assert "140 micro-batches" in caption
    assert "Shown: 16 of its stages" in caption
    assert "Shown: the first" in caption
    assert len(page.one("section", id="plan-timeline").raw()) < 400_000


def test_halves_of_backward_passes_differ():
    halves = (
        Span(device=0, kind="forward", start=0, end=1),
        Span(device=0, kind="inputs", start=1, end=2),
        Span(device=0, kind="weights", start=2, end=3),
    )
    text = only(timeline=halves).one("section", id="plan-timeline").raw()
    assert "gradients of weights" in text


def test_kernels_without_products_are_counted_and_not_drawn():
    kernels = (
        KernelTime(name="product", part="experts", flops=1e12, bytes=1e9, seconds=0.75),
        KernelTime(name="norm", part="norms", flops=0.0, bytes=1e9, seconds=0.25),
    )
    text = only(kernels=kernels).one("section", id="plan-roofline").text()
    assert "without products or that take next to nothing, 25.0 %" in text


def test_the_same_plan_gives_the_same_bytes(tmp_path):
    plan = bare(capacity=144e9)
    for name in ("a.html", "b.html"):
        write_plan_page(plan, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
