"""`/v1/files` and `/v1/batches` of the OpenAI API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from homegrown.serve.api.body import read
from homegrown.serve.batches.batch import Batch
from homegrown.serve.batches.desk import Desk
from homegrown.serve.batches.files import File
from homegrown.serve.errors import ApiError
from homegrown.serve.http.clients import ANONYMOUS, Client

_MOST_LISTED = 10_000
_LONGEST = 30 * 24 * 3600
"""Seconds that a client may ask a file to be kept; without asking it is kept for ever."""


class Expiry(msgspec.Struct):
    """How long a file is kept."""

    seconds: int
    anchor: str = "created_at"


class NewBatch(msgspec.Struct):
    """Body of a batch's creation."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: Expiry | None = None


def routes(desk: Desk) -> list[Route]:
    """All of them."""
    handlers = _Handlers(desk)
    return [
        Route("/v1/files", handlers.upload, methods=["POST"]),
        Route("/v1/files", handlers.files),
        Route("/v1/files/{file_id}", handlers.file),
        Route("/v1/files/{file_id}", handlers.delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", handlers.content),
        Route("/v1/batches", handlers.create, methods=["POST"]),
        Route("/v1/batches", handlers.batches),
        Route("/v1/batches/{batch_id}", handlers.batch),
        Route("/v1/batches/{batch_id}/cancel", handlers.cancel, methods=["POST"]),
    ]


class _Handlers:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def upload(self, request: Request) -> Response:
        try:
            async with request.form(max_files=1, max_fields=16, max_part_size=1 << 16) as form:
                upload, lasts = _checked(form)
                file = await asyncio.to_thread(
                    self._desk.files.create,
                    _client(request).tenant, upload.filename or "file", "batch", upload.file, upload.size or 0, lasts,
                )  # fmt: skip
        except HTTPException as error:  # what the parser of forms says
            raise ApiError("invalid", f"the body is no multipart form: {error.detail}") from None
        return JSONResponse(file.show())

    async def files(self, request: Request) -> Response:
        found = self._desk.files.of(_client(request).tenant)
        if request.query_params.get("order", "desc") == "desc":
            found.reverse()
        purpose = request.query_params.get("purpose")
        return _page(request, [file for file in found if purpose in (None, file.purpose)], _MOST_LISTED)

    async def file(self, request: Request) -> Response:
        return JSONResponse(self._file(request).show())

    async def delete(self, request: Request) -> Response:
        file = self._file(request)
        if self._desk.uses(file.id):
            raise ApiError("conflict", "the file is the input of an unfinished batch; cancel that first")
        self._desk.files.delete(file)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file = self._file(request)
        return FileResponse(
            self._desk.files.path(file), filename=file.filename, media_type="application/octet-stream",
            headers={"x-content-type-options": "nosniff"},
        )  # fmt: skip

    async def create(self, request: Request) -> Response:
        wanted = await read(request, NewBatch)
        if wanted.metadata and len(wanted.metadata) > 16:
            raise ApiError("invalid", "metadata has at most 16 entries", param="metadata")
        lasts = wanted.output_expires_after.seconds if wanted.output_expires_after else 0
        _check_lasts(lasts, "output_expires_after.seconds")
        batch = self._desk.create(
            _client(request), wanted.endpoint, wanted.input_file_id, wanted.completion_window, wanted.metadata, lasts
        )
        return JSONResponse(batch.show())

    async def batches(self, request: Request) -> Response:
        return _page(request, self._desk.of(_client(request).tenant), 100)

    async def batch(self, request: Request) -> Response:
        return JSONResponse(self._batch(request).show())

    async def cancel(self, request: Request) -> Response:
        batch = self._batch(request)
        self._desk.cancel(batch)
        return JSONResponse(batch.show())

    def _file(self, request: Request) -> File:
        return self._desk.files.get(_client(request).tenant, request.path_params["file_id"])

    def _batch(self, request: Request) -> Batch:
        return self._desk.get(_client(request).tenant, request.path_params["batch_id"])


def _client(request: Request) -> Client:
    return getattr(request.state, "client", ANONYMOUS)


def _checked(form: FormData) -> tuple[UploadFile, int]:
    """The file of an upload's form, and the seconds it is to be kept."""
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise ApiError("invalid", "the form has no file in its field `file`", param="file")
    if form.get("purpose") != "batch":
        raise ApiError("invalid", "purpose must be `batch`: files have no other use here", param="purpose")
    text = form.get("expires_after[seconds]", "0")
    if not isinstance(text, str) or not text.isdecimal():
        raise ApiError("invalid", "expires_after[seconds] must be a whole number", param="expires_after[seconds]")
    _check_lasts(int(text), "expires_after[seconds]")
    return upload, int(text)


def _check_lasts(seconds: int, param: str) -> None:
    if seconds and not 3600 <= seconds <= _LONGEST:
        raise ApiError("invalid", f"{param} must be from 3600 to {_LONGEST}", param=param)


def _page(request: Request, items: Sequence[File] | Sequence[Batch], most: int) -> JSONResponse:
    """A part of a list: behind `after`, at most `limit`."""
    text = request.query_params.get("limit", str(min(most, 20) if most == 100 else most))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ApiError("invalid", f"limit must be from 1 to {most}", param="limit")
    after, limit = request.query_params.get("after"), int(text)
    ids = [item.id for item in items]
    if after is not None and after not in ids:
        raise ApiError("invalid", "after must be the id of an item of the list", param="after")
    begin = ids.index(after) + 1 if after is not None else 0
    shown: list[dict[str, Any]] = [item.show() for item in items[begin : begin + limit]]
    return JSONResponse(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": begin + limit < len(items),
        }
    )
