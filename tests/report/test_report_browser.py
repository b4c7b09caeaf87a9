"""The page in a real browser: it draws, nothing is empty or cut off, and no script or request is attempted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FLAGS += ["--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        reason = f"no browser: none of {', '.join(NAMES)} is on the PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light")], ids=["wide", "dark", "phone"])
def view(request: pytest.FixtureRequest, browser, page_path: Path) -> Iterator:
    width, scheme = request.param
    view = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
    view.trouble = []
    view.on("console", lambda message: view.trouble.append(message.text))
    view.on("pageerror", lambda error: view.trouble.append(str(error)))
    view.on("request", lambda made: made.url.startswith(("file:", "data:")) or view.trouble.append(made.url))
    view.goto(page_path.as_uri())
    yield view
    view.close()


def test_it_draws_without_a_complaint(view) -> None:
    assert view.title() == "quickstart: run report"
    assert view.trouble == []


def test_nothing_is_wider_than_the_window(view) -> None:
    width = view.viewport_size["width"]
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    beyond = view.evaluate(
        """width => [...document.querySelectorAll('main *')]
        .filter(node => !node.closest('svg svg, svg *') && node.getBoundingClientRect().right > width + 0.5)
        .map(node => node.outerHTML.slice(0, 80))""",
        width,
    )
    assert beyond == []


def test_every_section_is_visible_and_has_content(view) -> None:
    for section in view.locator("section").all():
        box = section.bounding_box()
        assert box["width"] > 300, section.get_attribute("id")
        assert box["height"] > 100, section.get_attribute("id")
        assert len(section.inner_text().strip()) > 30


def test_every_figure_shows_exactly_one_drawing(view) -> None:
    assert view.locator("figure").count() > 15
    for figure in view.locator("figure").all():
        shown = [svg.bounding_box() for svg in figure.locator("svg").all() if svg.is_visible()]
        assert len(shown) == 1
        assert shown[0]["width"] > 200
        assert shown[0]["height"] > 80


def test_lines_and_text_of_drawings_take_the_theme(view) -> None:
    ink = view.evaluate("getComputedStyle(document.body).color")
    label = view.locator("figure svg text").filter(has_text="this model").first
    assert label.evaluate("node => getComputedStyle(node).fill") == ink


def test_tokens_differ_in_colour_and_can_be_read(view) -> None:
    colours = view.locator(".coloured span").evaluate_all(
        "nodes => nodes.map(node => [getComputedStyle(node).backgroundColor, getComputedStyle(node).color])"
    )
    assert len({background for background, _ in colours}) > 6
    assert min(contrast(background, ink) for background, ink in colours) >= 4.5
    swatches = view.locator(".levels i").evaluate_all(
        "nodes => nodes.map(node => getComputedStyle(node).backgroundColor)"
    )
    assert {background for background, _ in colours} <= set(swatches)


def test_text_stands_out_from_the_page(view) -> None:
    paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
    for selector in ("body", ".lead", ".note", ".missing", "nav a", ".badge", ".samples b", "figcaption span"):
        ink = view.locator(selector).first.evaluate("node => getComputedStyle(node).color")
        assert contrast(paper, ink) >= 4.5, selector


def test_details_open_from_the_keyboard(view) -> None:
    details = view.locator("#config details")
    assert not details.locator("pre").is_visible()
    details.locator("summary").focus()
    view.keyboard.press("Enter")
    assert details.locator("pre").is_visible()


def test_a_link_of_the_contents_leads_to_its_section(view) -> None:
    view.locator("nav a", has_text="Energy").click()
    assert abs(view.locator("#energy").bounding_box()["y"]) < 30


def test_the_print_is_light_and_complete(browser, page_path: Path) -> None:
    view = browser.new_page(color_scheme="dark")
    view.emulate_media(media="print")
    view.goto(page_path.as_uri())
    assert contrast(view.evaluate("getComputedStyle(document.body).color"), "rgb(255, 255, 255)") > 12
    assert not view.locator("nav").is_visible()
    assert view.locator("#config pre").bounding_box()["height"] > 500
    view.close()


def contrast(a: str, b: str) -> float:
    """WCAG contrast of two computed colours, `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
