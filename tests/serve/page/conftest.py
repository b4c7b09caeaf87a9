"""A browser, and pages in it that fail their test if anything goes wrong behind the scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .looking import FLAGS, Visitor


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Visitor]]:
    """Open a server's page. At the end there must have been no complaint of the browser and no request elsewhere."""
    visitors: list[Visitor] = []

    def visit(url: str, **options) -> Visitor:
        visitors.append(Visitor(browser, url, **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        trouble = visitor.close()
        assert trouble == [], trouble
