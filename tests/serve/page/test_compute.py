"""The colours that show how much was computed for each token."""

from __future__ import annotations

import pytest

from .talking import Talker

pytestmark = pytest.mark.browser

TEXT = "def add(a, b):\n    return a + b\n\nprint(add(1, 2))  # <i>three</i>\n"
PAINTED = "Answer coloured by compute"


@pytest.fixture(autouse=True)
def _code(talker: Talker) -> None:
    talker.says = [TEXT]


def spans(visitor):
    return visitor.answer.get_by_role("region", name=PAINTED).locator("span")


def test_tokens_are_coloured_on_demand(server, visit):
    visitor = visit(server.url)
    visitor.say("x")
    assert not visitor.answer.get_by_role("region", name=PAINTED).is_visible()
    switch = visitor.button("Compute")
    assert switch.get_attribute("aria-pressed") == "false"
    switch.click()
    assert switch.get_attribute("aria-pressed") == "true"
    assert not visitor.reading.is_visible()
    assert "".join(spans(visitor).all_text_contents()) == TEXT
    colours = spans(visitor).evaluate_all("nodes => nodes.map(node => getComputedStyle(node).backgroundColor)")
    assert len(set(colours)) > 6
    switch.click()
    assert visitor.reading.is_visible()


def test_more_experts_are_a_higher_level(server, visit):
    visitor = visit(server.url, settings={"painted": True})
    visitor.say("x")
    found = spans(visitor).evaluate_all(
        "nodes => nodes.map(node => [parseFloat(node.title), parseInt(node.className.slice(6))])"
    )
    assert {level for _, level in found} >= {0, 5, 11}
    ordered = sorted(found)
    assert [level for _, level in ordered] == sorted(level for _, level in found)


def test_the_legend_says_what_the_colours_mean(server, visit):
    visitor = visit(server.url, settings={"painted": True})
    visitor.say("x")
    experts = [
        float(title.split()[0]) for title in spans(visitor).evaluate_all("nodes => nodes.map(node => node.title)")
    ]
    legend = visitor.answer.locator(".legend").inner_text()
    assert f"from {min(experts):.1f} to {max(experts):.1f}" in legend
    assert legend.count("≤") == legend.count("≥") == 1
    assert visitor.answer.locator(".levels i").count() == 12


def test_the_choice_is_remembered(server, visit):
    visitor = visit(server.url)
    visitor.say("x")
    visitor.button("Compute").click()
    visitor.say("y")
    assert spans(visitor).count() > 0
    visitor.page.reload()
    visitor.say("z")
    assert spans(visitor).first.is_visible()


def test_no_switch_where_nothing_is_known(server, talker, visit):
    talker.compute = False
    visitor = visit(server.url, settings={"painted": True})
    visitor.say("x")
    assert visitor.button("Compute").count() == 0
    assert visitor.reading.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_colours_can_be_read(server, visit, scheme):
    visitor = visit(server.url, settings={"painted": True}, color_scheme=scheme)
    visitor.say("x")
    painted = visitor.answer.get_by_role("region", name=PAINTED)
    ink = painted.evaluate("node => getComputedStyle(node).color")
    assert ink == ("rgb(22, 24, 29)" if scheme == "light" else "rgb(243, 244, 246)")
