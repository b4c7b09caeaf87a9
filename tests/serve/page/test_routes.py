"""The page's files as they are sent, and what they may not hold."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from homegrown.report.colour import DARK, LIGHT
from homegrown.serve import page

STATIC = files("homegrown.serve.page") / "static"
NAMES = sorted(entry.name for entry in STATIC.iterdir())
TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=page.routes()))


def policy(response) -> dict[str, str]:
    return dict(part.strip().partition(" ")[::2] for part in response.headers["content-security-policy"].split(";"))


def test_the_page_itself(client):
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == (STATIC / "index.html").read_text()
    head = client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == response.headers["content-length"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "index.html"])
def test_every_file_has_its_type_and_the_policy(client, name):
    response = client.get(f"/page/{name}")
    assert response.content == (STATIC / name).read_bytes()
    assert response.headers["content-type"] == TYPES[name.rpartition(".")[2]]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert policy(response)["script-src"] == "'self'"


def test_nothing_is_allowed_that_is_not_needed(client):
    allowed = policy(client.get("/"))
    assert allowed["default-src"] == "'none'"
    assert {name for name, value in allowed.items() if "'self'" in value} == {
        "script-src",
        "style-src",
        "connect-src",
        "img-src",
    }
    assert (
        allowed["frame-ancestors"]
        == allowed["base-uri"]
        == allowed["form-action"]
        == allowed["trusted-types"]
        == "'none'"
    )
    assert "unsafe" not in str(allowed)


def test_a_copy_that_is_still_good_is_not_sent_again(client):
    first = client.get("/page/main.js")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get("/page/main.js", headers={"if-none-match": asked})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/page/main.js", headers={"if-none-match": '"other"'}).status_code == 200
    assert (
        len({client.get(f"/page/{name}").headers["etag"] for name in NAMES if name != "index.html"}) == len(NAMES) - 1
    )


@pytest.mark.parametrize(
    "path",
    [
        "/page/..", "/page/../routes.py", "/page/%2e%2e/routes.py", "/page/..%2froutes.py", "/page/%2e%2e%2froutes.py",
        "/page//etc/passwd", "/page/routes.py", "/page/static/main.js", "/page/index.html", "/page/",
        "/page/main.js/", "/page/main.js%00",
    ],
)  # fmt: skip
def test_no_other_file_is_there(server, path):
    """Over a real connection, because clients tidy such paths up."""
    assert server.ask("GET", path)[0] == 404


def test_only_get_and_head(client):
    assert client.post("/").status_code == client.post("/page/main.js").status_code == 405


def test_the_files_ask_nothing_of_others():
    """Addresses in them are names of things or are checked against, and nothing is fetched from them."""
    for name in NAMES:
        text = (STATIC / name).read_text()
        known = text.replace("http://www.w3.org/2000/svg", "").replace("https://html.spec.whatwg.org", "")
        assert not re.search(r"(?:https?:)?//[a-z0-9]+\.", known), name


def test_no_text_is_read_as_html_or_code():
    for name in NAMES:
        text = (STATIC / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc", text
        ), name
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son\w+=|\sstyle=", text), name


def test_files_are_small():
    for name in NAMES:
        assert len((STATIC / name).read_text().splitlines()) < 200, name


def test_the_colours_are_those_of_the_report():
    styles = (STATIC / "turns.css").read_text()
    found = re.findall(r"--level-(\d+): (#\w+);", styles)
    assert [colour for _, colour in found] == LIGHT.colours() + DARK.colours()
    assert [int(number) for number, _ in found] == 2 * list(range(len(LIGHT.colours())))
    assert re.findall(r"--ink-on-level: (#\w+);", styles) == [LIGHT.ink, DARK.ink]
