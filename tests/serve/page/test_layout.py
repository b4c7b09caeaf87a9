"""On a phone, by keyboard, in the dark: the page holds."""

from __future__ import annotations

import pytest

from .talking import THOUGHT, Talker, call

pytestmark = pytest.mark.browser

WIDE = f"""# {"Longwordwithoutspaces" * 5}

Some `{"code" * 40}` and https://x.example/{"path" * 40} here.

```python
{"x = " * 60}1
```

| {" | ".join("column" + str(number) for number in range(12))} |
|{"---|" * 12}
| {" | ".join(["value"] * 12)} |

- {"item" * 40}
"""
TEXTS = (
    "body", "#model", "#new", "#send", ".words", "summary", ".reading p", ".reading a", ".reading p code", ".code code",
    ".code button", "blockquote", ".figures", ".turn footer button",
)  # fmt: skip
PHONE = {"width": 375, "height": 700}


@pytest.fixture(autouse=True)
def _quick(talker: Talker) -> None:
    talker.begin("Yes.", at_a_time=20)


def beyond(page) -> list[str]:
    """Elements that stick out of the window and cannot be scrolled to within something."""
    return page.evaluate("""() => {
      const width = document.documentElement.clientWidth;
      return [...document.querySelectorAll('body *')].filter(node => {
        const box = node.getBoundingClientRect();
        if (node.closest('.unseen, .skip') || !box.width) return false;
        if (node.parentElement.closest('pre, .wide, .top h1')) return false;
        return box.right > width + 0.5 || box.left < -0.5;
      }).map(node => node.outerHTML.slice(0, 100));
    }""")


@pytest.mark.parametrize("painted", [False, True])
def test_a_phone_needs_no_sideways_scrolling(server, talker, visit, painted):
    talker.says = ["thinking " * 20 + "y" * 200 + "\n" + THOUGHT + WIDE + call("f", a="z" * 200, b="w " * 100)]
    tools = {"tools": '[{"name": "f"}]', "thinking": "on", "painted": painted}
    visitor = visit(server.url, settings=tools, has_touch=True, is_mobile=True)
    visitor.page.set_viewport_size(PHONE)
    visitor.say("q" * 300)
    visitor.answer.locator("summary").click()
    assert visitor.page.evaluate("document.documentElement.scrollWidth") == 375
    assert beyond(visitor.page) == []
    visitor.button("Settings").click()
    assert visitor.page.get_by_role("dialog").bounding_box()["width"] == 375
    assert visitor.page.evaluate("document.querySelector('#settings').scrollWidth") <= 375
    visitor.button("Done").click()
    visitor.button("Edit").click()
    assert beyond(visitor.page) == []


def test_targets_on_a_phone_are_large_enough(server, visit):
    """At least 24 pixels either way (WCAG 2.2, 2.5.8)."""
    visitor = visit(server.url, has_touch=True, is_mobile=True)
    visitor.page.set_viewport_size(PHONE)
    visitor.say("x")
    for button in visitor.page.get_by_role("button").all():
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 24, button.inner_text()
    assert (
        float(visitor.box.evaluate("node => parseFloat(getComputedStyle(node).fontSize)")) >= 16
    )  # else phones zoom in


def test_by_keyboard_alone(server, talker, visit):
    talker.says = ["First.", "Second.", "Third."]
    visitor = visit(server.url)
    press, page = visitor.page.keyboard.press, visitor.page

    def focused() -> str:
        return page.evaluate("document.activeElement.textContent || document.activeElement.id")

    def tab_to(name: str, key: str = "Tab") -> None:
        for _ in range(12):
            press(key)
            if focused() == name:
                width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
                assert width == "2px", f"the focus on {name} cannot be seen"
                return
        raise AssertionError(f"{name} cannot be reached")

    page.keyboard.type("one")
    press("Shift+Enter")
    page.keyboard.type("two")
    press("Enter")
    visitor.answered(1)
    assert visitor.questions.inner_text().startswith("one\ntwo")
    tab_to("Regenerate", "Shift+Tab")
    press("Enter")
    visitor.answered(1)
    assert visitor.reading.inner_text() == "Second."
    tab_to("Settings", "Shift+Tab")
    press("Enter")
    page.get_by_role("dialog").wait_for()
    tab_to("Back to the defaults")
    press("/")
    press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    assert focused() == "Settings"
    press("/")
    assert focused() == "prompt"
    page.keyboard.type("a/b")
    assert visitor.box.input_value() == "a/b"
    tab_to("Edit", "Shift+Tab")
    press("Enter")
    assert page.evaluate("document.activeElement.value") == "one\ntwo"
    press("Control+a")
    page.keyboard.type("three")
    press("Enter")
    visitor.answered(1)
    assert visitor.reading.inner_text() == "Third."


def test_what_can_be_used_has_a_name(server, visit):
    visitor = visit(server.url)
    visitor.say("x")
    visitor.button("Settings").click()
    unnamed = visitor.page.evaluate("""() => [...document.querySelectorAll('button, input, select, textarea')]
      .filter(node => !(node.textContent.trim() || node.labels?.length || node.getAttribute('aria-label')))
      .map(node => node.outerHTML)""")
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(server, talker, visit, scheme):
    talker.says = ["hm\n" + THOUGHT + "Yes `code` https://x.example\n\n```py\nx\n```\n\n> quote"]
    visitor = visit(server.url, settings={"thinking": "on"}, color_scheme=scheme)
    visitor.say("x")
    for selector in TEXTS:
        ink, paper = visitor.page.locator(selector).first.evaluate("""node => {
          const ink = getComputedStyle(node).color;
          while (getComputedStyle(node).backgroundColor === 'rgba(0, 0, 0, 0)') node = node.parentElement;
          return [ink, getComputedStyle(node).backgroundColor];
        }""")
        assert contrast(ink, paper) >= 4.5, selector


def contrast(a: str, b: str) -> float:
    """WCAG contrast of two computed colours, `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
