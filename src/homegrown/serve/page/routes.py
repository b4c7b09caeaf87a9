"""`/` and `/page/NAME`: the chat page and the files it is made of.

The files are read once and held in memory under their names, so no request reaches the filesystem.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

INDEX = "index.html"
"""The page itself; it is served at `/` only, because its links are relative to that."""

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content types of the files. Nothing else is served."""

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
"""The page runs its own scripts and talks to its own server, and can neither be framed nor read text as HTML."""

HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""With every file. Browsers keep them and ask each time whether they have changed."""


@dataclass(frozen=True)
class File:
    """A file as it is sent; `etag` changes with its content."""

    content: bytes
    media_type: str
    etag: str

    def respond(self, request: Request) -> Response:
        """The file, or word that the client's copy of it is still good."""
        headers = {**HEADERS, "etag": self.etag}
        if _matches(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def routes() -> list[BaseRoute]:
    """The page's routes. They answer GET and HEAD and need no key: the page asks for one itself."""
    found = _read()
    index = found.pop(INDEX)

    async def page(request: Request) -> Response:
        return index.respond(request)

    async def part(request: Request) -> Response:
        file = found.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        return file.respond(request)

    return [Route("/", page), Route("/page/{name}", part)]


def _read() -> dict[str, File]:
    """The files by name."""
    found = {}
    for entry in files("homegrown.serve.page").joinpath("static").iterdir():
        media_type = TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None and entry.is_file():
            content = entry.read_bytes()
            digest = hashlib.sha256(media_type.encode() + b"\n" + content).hexdigest()
            found[entry.name] = File(content, media_type, f'"{digest[:32]}"')
    return found


def _matches(asked: str, etag: str) -> bool:
    """Whether an `If-None-Match` header names this tag (RFC 9110, 13.1.2: compared weakly)."""
    tags = [tag.strip().removeprefix("W/") for tag in asked.split(",")]
    return etag in tags or "*" in tags
