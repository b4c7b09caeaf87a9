"""The page of a plan in a real browser: it draws, nothing is cut off, no request is attempted."""

import os
import shutil

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(f"no browser: none of {', '.join(names)} is on the PATH")
        pytest.skip("no browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        launched = playwright.chromium.launch(executable_path=program, args=flags)
        yield launched
        launched.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_it_draws_within_the_window(browser, plan_page, width, scheme):
    view = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    trouble = []
    view.on("console", lambda message: trouble.append(message.text))
    view.on("request", lambda made: made.url.startswith(("file:", "data:")) or trouble.append(made.url))
    view.goto(plan_page.as_uri())
    assert view.title() == "LongCat-2.0: training plan"
    assert trouble == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    for figure in view.locator("figure").all():
        shown = [svg.bounding_box() for svg in figure.locator("svg").all() if svg.is_visible()]
        assert len(shown) == 1
        assert shown[0]["width"] > 200
        assert shown[0]["height"] > 60
    ink = view.evaluate("getComputedStyle(document.body).color")
    label = view.locator("figure svg text").filter(has_text="activations").first
    assert label.evaluate("node => getComputedStyle(node).fill") == ink
    view.close()
