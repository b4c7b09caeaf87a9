"""Tool calls: declared, shown, answered for, and sent back."""

from __future__ import annotations

import json

import pytest

from ..http.live import until
from .talking import Talker, call

pytestmark = pytest.mark.browser

WEATHER = {
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
DECLARED = {"tools": json.dumps([WEATHER])}


@pytest.fixture(autouse=True)
def _weather(talker: Talker) -> None:
    talker.begin("Let me see.\n" + call("get_weather", city="Köln <b>"), "It is **18** degrees.", compute=False)


def test_a_round_trip(server, talker, visit, expect):
    from playwright.sync_api import expect

    visitor = visit(server.url, settings=DECLARED)
    visitor.say("weather?")
    assert "get_weather" in talker.prompt()
    card = visitor.page.get_by_role("region", name="Call of get_weather")
    expect(card.get_by_role("region", name="Arguments")).to_have_text('{\n  "city": "Köln <b>"\n}')
    field = card.get_by_label("Result of get_weather")
    expect(field).to_be_focused()
    field.fill("18 °C & <sunny>")
    visitor.button("Send the result").click()
    visitor.answered(2)
    expect(visitor.reading).to_have_text("It is 18 degrees.")
    expect(card.get_by_role("region", name="Result of get_weather")).to_have_text("18 °C & <sunny>")
    prompt = talker.prompt()
    assert prompt.index("Köln <b>") < prompt.index("18 °C & <sunny>")


def test_several_calls_by_keyboard(server, talker, visit):
    talker.says = [call("get_weather", city="Oslo") + call("get_weather", city="Rome"), "Cold and warm."]
    visitor = visit(server.url, settings=DECLARED)
    visitor.say("weather?")
    for text in ("4 °C", "24 °C"):
        visitor.page.keyboard.type(text)
        visitor.page.keyboard.press("Enter")
    visitor.answered(2)
    prompt = talker.prompt()
    assert prompt.index("Oslo") < prompt.index("Rome") < prompt.index("4 °C") < prompt.index("24 °C")


def test_the_conversation_may_go_on_without_results(server, talker, visit):
    visitor = visit(server.url, settings=DECLARED)
    visitor.say("weather?")
    visitor.say("never mind")
    assert "never mind" in talker.prompt()
    assert visitor.button("Send the result").count() == 0


def test_a_call_that_was_stopped_is_not_sent(server, talker, visit, expect):
    from playwright.sync_api import expect

    talker.says, talker._pause = [call("get_weather", city="x" * 300), "Fine."], 0.02
    visitor = visit(server.url, settings=DECLARED)
    visitor.say("weather?", wait=False)
    expect(visitor.answer.get_by_role("region", name="Arguments")).to_contain_text("xxx")
    visitor.button("Stop").click()
    visitor.answered(1)
    expect(visitor.answer).to_contain_text("was not finished")
    until(lambda: len(talker.aborted) == 1)
    visitor.say("again")
    assert "xxx" not in talker.prompt()


def test_tools_are_declared_in_the_settings(server, talker, visit, expect):
    from playwright.sync_api import expect

    visitor = visit(server.url)
    visitor.button("Settings").click()
    field = visitor.page.get_by_label("Tools, as JSON")
    field.fill("[{")
    trouble = visitor.page.get_by_role("dialog").get_by_role("status")
    expect(trouble).to_contain_text("not JSON")
    field.fill('[{"type": "function", "function": {"name": "look_up"}}]')
    expect(trouble).to_have_text("")
    visitor.button("Done").click()
    visitor.say("x")
    assert "look_up" in talker.prompt()
    visitor.button("Settings").click()
    visitor.button("Put in an example").click()
    visitor.page.keyboard.press("Escape")
    visitor.say("y")
    assert "look_up" not in talker.prompt()
    assert "get_weather" in talker.prompt()


@pytest.mark.parametrize("text", ["[{", "{}", "[{}]", "[3]", "[null]"])
def test_wrong_tools_are_not_passed_over(server, talker, visit, text):
    visitor = visit(server.url, settings={"tools": text})
    visitor.say("x")
    trouble = visitor.answer.get_by_role("alert").inner_text()
    assert "settings" in trouble
    assert talker.requests == []
