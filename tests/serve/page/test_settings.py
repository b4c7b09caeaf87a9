"""What can be set reaches the engine, and is remembered."""

from __future__ import annotations

import pytest

from .talking import THOUGHT

pytestmark = pytest.mark.browser

SAMPLING = {"Temperature": "0.5", "Top p": "0.9", "Top k": "7", "Min p": "0.1", "Most tokens": "33", "Seed": "-12"}


def test_they_reach_the_engine_and_outlive_the_page(server, talker, visit):
    visitor = visit(server.url)
    visitor.button("Settings").click()
    for name, value in SAMPLING.items():
        visitor.page.get_by_label(name).fill(value)
    visitor.page.get_by_label("System prompt").fill("Be brief.")
    visitor.button("Done").click()
    for _ in range(2):
        visitor.say("x")
        sampling = talker.requests[-1].sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.1)
        assert (sampling.max_tokens, sampling.seed) == (33, -12)
        assert "Be brief." in talker.prompt()
        visitor.page.reload()


def test_what_is_left_open_is_left_to_the_server(server, talker, visit):
    visitor = visit(server.url)
    sent = []
    visitor.page.on("request", lambda made: sent.append(made.post_data_json) if made.method == "POST" else None)
    visitor.say("x")
    assert sent == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "x"}],
            "compute": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_impossible_values_are_not_used(server, talker, visit):
    visitor = visit(server.url, settings={"temperature": "0.5"})
    visitor.button("Settings").click()
    field = visitor.page.get_by_label("Temperature")
    field.fill("5")
    field.press("Tab")
    told = field.evaluate("node => getComputedStyle(node.nextElementSibling, '::before').content")
    assert told == '"Not used: "'
    visitor.page.keyboard.press("Escape")
    visitor.say("x")
    assert talker.requests[-1].sampling.temperature == 0.5


@pytest.mark.parametrize("choice", ["On", "Off"])
def test_thinking_is_switched(server, talker, visit, choice):
    visitor = visit(server.url)
    visitor.button("Settings").click()
    visitor.page.get_by_label("Thinking").select_option(choice)
    visitor.page.keyboard.press("Escape")
    talker.says = ["hm\n" + THOUGHT + "Yes." if choice == "On" else "Yes."]
    visitor.say("x")
    assert visitor.reading.inner_text() == "Yes."
    assert visitor.answer.locator(".thinking").count() == (choice == "On")


def test_markdown_can_be_switched_off(server, talker, visit):
    talker.says = ["# not a *title*\n    x"]
    visitor = visit(server.url)
    visitor.button("Settings").click()
    visitor.page.get_by_label("Show answers as Markdown").uncheck()
    visitor.page.keyboard.press("Escape")
    visitor.say("x")
    assert visitor.reading.inner_text() == "# not a *title*\n    x"


def test_back_to_the_defaults(server, talker, visit):
    visitor = visit(server.url, settings={"temperature": "0.5", "system": "Be brief.", "markdown": False})
    visitor.button("Settings").click()
    visitor.button("Back to the defaults").click()
    assert visitor.page.get_by_label("Temperature").input_value() == ""
    assert visitor.page.get_by_label("Show answers as Markdown").is_checked()
    assert visitor.remembered() == {}


def test_nothing_breaks_where_nothing_can_be_stored(server, talker, visit):
    visitor = visit(server.url)
    visitor.page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})")
    visitor.page.reload()
    visitor.button("Settings").click()
    visitor.page.get_by_label("Top k").fill("9")
    visitor.page.keyboard.press("Escape")
    visitor.say("x")
    assert talker.requests[-1].sampling.top_k == 9
