"""A visitor of the page: what a person does and sees there."""

from __future__ import annotations

import json
from typing import Any

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


class Visitor:
    """One visit in a browser window of its own.

    Args:
        browser: playwright's.
        usual: a context in it that visits share; it remembers nothing of them.
        url: of the server.
        refused: the server is going to refuse something, of which the browser tells in its console.
        settings: as the page remembers them.
        options: of a context that differs from the usual one.
    """

    def __init__(
        self, browser, usual, url: str, refused: bool = False, settings: dict[str, Any] | None = None, **options
    ) -> None:
        self.page = browser.new_page(**options) if options else usual.new_page()
        self.page.set_viewport_size({"width": 1000, "height": 800})
        self._trouble: list[str] = []
        self._refused = refused
        self.page.on("console", lambda message: self._hear(message.text))
        self.page.on("pageerror", lambda error: self._trouble.append(str(error)))
        self.page.on("request", lambda made: made.url.startswith(url) or self._trouble.append(made.url))
        if settings:
            text = json.dumps(json.dumps(settings))
            self.page.add_init_script(
                f"localStorage.getItem('homegrown.settings') ?? localStorage.setItem('homegrown.settings', {text})"
            )
        self.page.goto(url)

    def _hear(self, text: str) -> None:
        if not (self._refused and text.startswith("Failed to load resource")):
            self._trouble.append(text)

    def close(self) -> list[str]:
        """End the visit; what went wrong."""
        self.page.evaluate("try { localStorage.clear(); } catch { /* a test has forbidden it */ }")
        self.page.close()
        return self._trouble

    @property
    def box(self):
        return self.page.get_by_label("Message", exact=True)

    @property
    def questions(self):
        return self.page.get_by_role("article", name="You")

    @property
    def answers(self):
        return self.page.get_by_role("article", name="Answer")

    @property
    def answer(self):
        """The last one."""
        return self.answers.last

    @property
    def reading(self):
        """The last one as it reads."""
        return self.answer.locator(".reading")

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def say(self, text: str, wait: bool = True) -> None:
        """Type something and press Enter; wait until the answer is there."""
        count = self.answers.count()
        self.box.fill(text)
        self.box.press("Enter")
        if wait:
            self.answered(count + 1)

    def answered(self, count: int) -> None:
        """Wait until there are so many answers and the last one is complete."""
        from playwright.sync_api import expect

        expect(self.page.locator(".answer:not([aria-busy])")).to_have_count(count)
        expect(self.button("Stop")).to_be_hidden()

    def remembered(self) -> dict[str, Any]:
        """The settings, as the page has stored them."""
        return self.page.evaluate("JSON.parse(localStorage.getItem('homegrown.settings'))")
