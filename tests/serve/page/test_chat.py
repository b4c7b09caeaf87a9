"""Asking and answering: a whole conversation in a browser, against the real application."""

from __future__ import annotations

import pytest

from ..http.live import live, tiny_backend, until
from .talking import THOUGHT, Talker

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def _hello(talker: Talker) -> None:
    talker.says = ["Hello **you**."]


def test_a_question_is_answered(server, talker, visit, expect):
    visitor = visit(server.url)
    expect(visitor.page).to_have_title("Tiny · Homegrown")
    expect(visitor.box).to_be_focused()
    visitor.say("Hi <there>")
    expect(visitor.questions).to_have_text(["Hi <there>Edit"])
    expect(visitor.reading).to_have_text("Hello you.")
    expect(visitor.reading.locator("strong")).to_have_text("you")
    expect(visitor.box).to_have_value("")
    assert "Hi <there>" in talker.prompt()


def test_the_conversation_goes_on(server, talker, visit, expect):
    visitor = visit(server.url)
    visitor.say("one")
    talker.says = ["Second."]
    visitor.say("two\nlines")
    expect(visitor.reading).to_have_text("Second.")
    prompt = talker.prompt()
    assert prompt.index("one") < prompt.index("Hello **you**.") < prompt.index("two\nlines")


def test_text_appears_while_it_is_written(server, talker, visit, expect):
    talker.says, talker._pause = ["word " * 400], 0.02
    visitor = visit(server.url)
    visitor.say("go", wait=False)
    expect(visitor.reading).to_contain_text("word word word")
    assert visitor.answer.get_attribute("aria-busy") == "true"
    before = len(visitor.reading.inner_text())
    until(lambda: len(visitor.reading.inner_text()) > before)
    visitor.button("Stop").click()
    visitor.answered(1)


@pytest.mark.parametrize("how", ["button", "key"])
def test_stopping_frees_the_engine(server, talker, visit, expect, how):
    talker.says, talker._pause = ["word " * 400], 0.02
    visitor = visit(server.url)
    visitor.say("go", wait=False)
    expect(visitor.reading).to_contain_text("word word")
    if how == "key":
        visitor.page.keyboard.press("Escape")
    else:
        visitor.button("Stop").click()
    visitor.answered(1)
    expect(visitor.answer).to_contain_text("Stopped.")
    until(lambda: talker.aborted == [request.id for request in talker.requests])
    expect(visitor.button("Send")).to_be_visible()
    talker.says = ["Well."]
    visitor.say("why?")
    assert "word word" in talker.prompt()


def test_nothing_is_sent_twice_or_empty(server, talker, visit, expect):
    visitor = visit(server.url)
    visitor.box.fill("   ")
    visitor.box.press("Enter")
    talker.says, talker._pause = ["word " * 200], 0.02
    visitor.say("first", wait=False)
    expect(visitor.reading).to_contain_text("word")
    visitor.box.fill("second")
    visitor.box.press("Enter")
    expect(visitor.box).to_have_value("second")
    visitor.button("Stop").click()
    visitor.answered(1)
    assert len(talker.requests) == 1


def test_another_answer_in_place_of_the_last(server, talker, visit, expect):
    talker.says = ["First.", "Second.", "Third."]
    visitor = visit(server.url)
    visitor.say("one")
    visitor.say("two")
    expect(visitor.button("Regenerate")).to_have_count(1)
    visitor.button("Regenerate").click()
    expect(visitor.reading).to_have_text("Third.")
    visitor.answered(2)
    prompt = talker.prompt()
    assert "First." in prompt
    assert "Second." not in prompt


def test_a_question_is_asked_anew(server, talker, visit, expect):
    talker.says = ["First.", "Second.", "Third."]
    visitor = visit(server.url)
    visitor.say("one")
    visitor.say("two")
    visitor.questions.nth(1).hover()
    visitor.button("Edit").nth(1).click()
    field = visitor.page.get_by_label("Your message")
    expect(field).to_have_value("two")
    field.press("Escape")
    expect(field).to_have_count(0)
    visitor.button("Edit").nth(0).click()
    field.fill("new one")
    field.press("Enter")
    expect(visitor.reading).to_have_text("Third.")
    expect(visitor.questions).to_have_text(["new oneEdit"])
    prompt = talker.prompt()
    assert "new one" in prompt
    assert "two" not in prompt


def test_a_new_chat_is_empty(server, talker, visit, expect):
    visitor = visit(server.url)
    visitor.say("one")
    visitor.button("New chat").click()
    expect(visitor.answers).to_have_count(0)
    expect(visitor.page.get_by_text("Say something to begin.")).to_be_visible()
    visitor.say("two")
    assert "one" not in talker.prompt()


def test_a_new_chat_ends_what_runs(server, talker, visit, expect):
    talker.says, talker._pause = ["word " * 400], 0.02
    visitor = visit(server.url)
    visitor.say("go", wait=False)
    expect(visitor.reading).to_contain_text("word")
    visitor.button("New chat").click()
    until(lambda: len(talker.aborted) == 1)
    expect(visitor.button("Send")).to_be_visible()
    talker.says = ["Fine."]
    visitor.say("again")
    expect(visitor.reading).to_have_text("Fine.")


def test_thinking_is_folded_and_told_apart(server, talker, visit, expect):
    talker.says = ["Hm, <b>well</b>.\n\nYes.\n" + THOUGHT + "Sure.", "More."]
    visitor = visit(server.url, settings={"thinking": "on"})
    visitor.say("think")
    fold = visitor.answer.get_by_role("group")
    expect(fold).to_contain_text("Thought for")
    expect(fold).to_contain_text("tokens")
    thought = visitor.answer.locator(".thought")
    expect(thought).to_be_hidden()
    visitor.answer.locator("summary").focus()
    visitor.page.keyboard.press("Enter")
    expect(thought).to_be_visible()
    expect(thought).to_contain_text("Hm, <b>well</b>.")
    expect(visitor.reading).to_have_text("Sure.")
    assert thought.locator("b").count() == 0


def test_figures_of_an_answer(server, talker, visit, expect):
    talker.says, talker._cached, talker._pause = ["Some words that take a while."], 5, 0.005
    visitor = visit(server.url)
    visitor.say("x")
    figures = visitor.answer.get_by_role("list", name="Figures").get_by_role("listitem")
    request = talker.requests[-1]
    spoken = len(talker._script(request))
    expect(figures.nth(0)).to_have_text(f"{spoken} tokens")
    expect(figures.nth(1)).to_contain_text("tokens/s")
    expect(figures.nth(2)).to_contain_text("first after")
    expect(figures.nth(3)).to_have_text("75 % of 40 drafted tokens accepted")
    expect(figures.nth(4)).to_have_text(f"5 of {len(request.prompt)} prompt tokens cached")


def test_the_limit_of_tokens_is_told(server, talker, visit, expect):
    talker.says = ["word " * 100]
    visitor = visit(server.url, settings={"max_tokens": "5"})
    visitor.say("x")
    expect(visitor.answer).to_contain_text("has reached the most tokens allowed")


def test_sentences_are_told_to_screen_readers(server, talker, visit, expect):
    talker.says = ["One sentence. Another\nline"]
    visitor = visit(server.url)
    visitor.say("x")
    region = visitor.page.locator("[aria-live=polite]")
    expect(region.locator("p")).to_have_text(["One sentence.", "Another", "line"])


def test_the_page_follows_the_text_unless_the_reader_goes_elsewhere(server, talker, visit, expect):
    talker.says, talker._pause, talker._at_a_time = ["word\n\n" * 150], 0.01, 4
    visitor = visit(server.url)
    bottom = "document.scrollingElement.scrollHeight - innerHeight - scrollY"
    visitor.say("x", wait=False)
    until(lambda: visitor.page.evaluate("scrollY") > 300)
    assert visitor.page.evaluate(bottom) < 80
    visitor.page.mouse.move(500, 400)
    visitor.page.mouse.wheel(0, -5000)
    until(lambda: visitor.page.evaluate("scrollY") == 0)
    visitor.answered(1)
    assert visitor.page.evaluate("scrollY") == 0


def test_a_real_model(visit, expect):
    """The engine and the page agree on every field, the compute among them."""
    with live(tiny_backend()) as server:
        visitor = visit(
            server.url, settings={"temperature": "0", "max_tokens": "24", "painted": True, "markdown": False}
        )
        visitor.say("print")
        told = visitor.answer.get_by_role("list", name="Figures")
        expect(told).to_contain_text("24 tokens")
        expect(told).to_contain_text("drafted tokens accepted")
        painted = visitor.answer.get_by_role("region", name="Answer coloured by compute").inner_text()
        visitor.button("Compute").click()
        assert visitor.reading.inner_text().strip() == painted.strip() != ""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "print"}], "temperature": 0, "max_tokens": 24}
        whole = server.ask("POST", "/v1/chat/completions", body)[2]["choices"][0]["message"]["content"]
        assert visitor.reading.text_content() == whole
