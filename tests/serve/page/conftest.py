"""A browser, and pages in it that fail their test if anything goes wrong behind the scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ..http.live import Live, live
from .looking import FLAGS, Visitor
from .talking import CARD, Talker


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def shared() -> Talker:
    return Talker("Yes.")


@pytest.fixture(scope="package")
def served(shared: Talker) -> Iterator[Live]:
    with live(shared, card=CARD) as server:
        yield server


@pytest.fixture
def talker(shared: Talker) -> Talker:
    """What `server` serves. It says `Yes.` until a test gives it something else to say."""
    shared.begin("Yes.")
    return shared


@pytest.fixture
def server(served: Live, talker: Talker) -> Live:
    """The one server of most tests, with nothing left in it of the test before."""
    return served


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    return expect


@pytest.fixture(scope="package")
def usual(browser) -> Iterator:
    """What most visits share: to begin anew each time would take longer than they do."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def visit(browser, usual) -> Iterator[Callable[..., Visitor]]:
    """Open a server's page. At the end there must have been no complaint of the browser and no request elsewhere."""
    visitors: list[Visitor] = []

    def visit(url: str, **options) -> Visitor:
        visitors.append(Visitor(browser, usual, url, **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        trouble = visitor.close()
        assert trouble == [], trouble
