"""Keys, refusals, broken streams: told in sentences, and repaired where that is possible."""

from __future__ import annotations

import re

import pytest

from homegrown.serve.http.clients import Client, Keys, digest

from ..http.live import live
from .talking import CARD, Talker

pytestmark = pytest.mark.browser

HALF = 'data: {"choices":[{"index":0,"delta":{"content":"Half"},"finish_reason":null}]}\n\n'
KEYS = Keys({digest("hg-good-key"): Client(name="ada", tenant="lab", priority=0, requests_per_minute=2)})


def test_the_key_is_asked_for_and_kept_for_the_tab(visit, expect):
    with live(Talker("Yes."), KEYS, card=CARD) as server:
        visitor = visit(server.url, refused=True)
        dialog = visitor.page.get_by_role("dialog", name="API key")
        field = dialog.get_by_label("Key")
        expect(field).to_be_focused()
        field.fill("hg-bad-key")
        field.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("This API key is not known here.")
        field.fill(" hg-good-key ")
        field.press("Enter")
        expect(dialog).to_be_hidden()
        expect(visitor.page.locator("#model")).to_have_text("Tiny")
        visitor.say("x")
        expect(visitor.reading).to_have_text("Yes.")
        stored = visitor.page.evaluate(
            "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), location.href, document.cookie]"
        )
        assert ["hg-good-key" in text for text in stored] == [True, False, False, False]
        visitor.page.reload()
        expect(visitor.page.locator("#model")).to_have_text("Tiny")
        visitor.button("Settings").click()
        visitor.button("Forget the API key").click()
        visitor.button("Done").click()
        visitor.say("y", wait=False)
        expect(dialog).to_be_visible()
        visitor.button("Cancel").click()
        visitor.answered(1)
        expect(visitor.answer.get_by_role("alert")).to_contain_text("No API key")
        visitor.button("Try again").click()
        field.fill("hg-good-key")
        field.press("Enter")
        visitor.answered(1)
        expect(visitor.reading).to_have_text("Yes.")


def test_limits_are_told_with_the_time_to_wait(visit, expect):
    with live(Talker("Yes."), KEYS, card=CARD) as server:
        visitor = visit(server.url, refused=True)
        visitor.page.get_by_role("dialog").get_by_label("Key").fill("hg-good-key")
        visitor.page.keyboard.press("Enter")
        for text in "abc":
            visitor.say(text)
        expect(visitor.answer.get_by_role("alert")).to_have_text(re.compile(r"^[A-Z].*\. Try again in \d+ s\.$"))


def test_what_the_server_refuses_is_told_in_its_words(visit, expect):
    with live(Talker("Yes."), card=CARD) as server:
        visitor = visit(server.url, refused=True, settings={"temperature": "3"})
        visitor.say("x")
        expect(visitor.answer.get_by_role("alert")).to_have_text("Temperature = 3.0: must be from 0 to 2.")
        expect(visitor.button("Try again")).to_be_visible()


def test_an_engine_that_fails_in_the_middle(visit, expect):
    talker = Talker("Half an answer", error="the engine ran out of memory")
    with live(talker, card=CARD) as server:
        visitor = visit(server.url)
        visitor.say("x")
        expect(visitor.answer.get_by_role("alert")).to_have_text("The engine ran out of memory.")
        expect(visitor.reading).to_contain_text("Half an ans")
        talker._error, talker.says = "", ["Whole."]
        visitor.button("Try again").click()
        expect(visitor.reading).to_have_text("Whole.")
        expect(visitor.page.get_by_role("alert")).to_have_count(0)


def test_a_server_that_is_gone(visit, expect):
    with live(Talker("Yes."), card=CARD) as server:
        visitor = visit(server.url, refused=True)
        visitor.say("x")
    visitor.say("y")
    expect(visitor.answer.get_by_role("alert")).to_have_text("The server cannot be reached; is it still running?")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (HALF, "broke off"),
        (HALF + "data: [DONE]\n\n", "broke off"),
        (': keep-alive\r\n\r\ndata: {"error":{"message":"too much"}}\r\n\r\n', "Too much."),
    ],
)
def test_streams_that_end_wrongly(visit, expect, body, told):
    with live(Talker("Yes."), card=CARD) as server:
        visitor = visit(server.url)
        visitor.page.route(
            "**/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream")
        )
        visitor.say("x")
        expect(visitor.answer.get_by_role("alert")).to_contain_text(told)


def test_a_proxy_that_answers_with_something_else(visit, expect):
    with live(Talker("Yes."), card=CARD) as server:
        visitor = visit(server.url, refused=True)
        visitor.page.route("**/chat/completions", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
        visitor.say("x")
        expect(visitor.answer.get_by_role("alert")).to_have_text("The server answered with status 502.")
