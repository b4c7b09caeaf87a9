"""Streams through a real server: timing, silence, errors before and behind the first byte, clients that leave."""

import asyncio
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from homegrown.serve.errors import ApiError
from homegrown.serve.http.gone import unless_gone
from homegrown.serve.http.sse import stream

from ..running import running


def told(error):
    return f"data: {error.kind}: {error.message}\n\n"


async def on_api_error(request, error):
    return JSONResponse({"kind": error.kind}, 418)


@contextmanager
def serving(events, **options):
    async def endpoint(request):
        await request.body()
        return stream(events(), told, **options)

    app = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])], exception_handlers={ApiError: on_api_error})
    with running(app) as address:
        yield address


def test_headers_and_order():
    async def events():
        yield "data: 1\n\n"
        yield b"data: \xc3\xa9\n\n"

    with serving(events, headers={"x-more": "1"}) as address:
        response = httpx.post(address, content=b"a body")
    assert response.text == "data: 1\n\ndata: é\n\n"
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-more"] == "1"


def test_each_event_arrives_before_the_next_is_made():
    go_on = threading.Event()

    async def events():
        yield "data: 1\n\n"
        while not go_on.is_set():
            await _a_moment()
        yield "data: 2\n\n"

    with serving(events) as address, httpx.stream("GET", address) as response:
        pieces = response.iter_text()
        assert next(pieces) == "data: 1\n\n"
        go_on.set()
        assert "".join(pieces) == "data: 2\n\n"


def test_silence_is_filled():
    async def events():
        await _a_moment(0.35)
        yield "data: 1\n\n"
        await _a_moment(0.35)
        yield "data: 2\n\n"

    with serving(events, idle=": still here\n\n", idle_s=0.1) as address:
        text = httpx.get(address).text
    assert 2 <= text.count(": still here") <= 6
    assert text.startswith(": still here\n\n")
    assert [line for line in text.split("\n\n") if line.startswith("data")] == ["data: 1", "data: 2"]


def test_steady_events_are_not_interrupted():
    async def events():
        for number in range(8):
            await _a_moment(0.04)
            yield f"data: {number}\n\n"

    with serving(events, idle_s=0.2) as address:
        assert "keep-alive" not in httpx.get(address).text


def test_an_error_before_the_first_event_has_a_status():
    async def events():
        await _a_moment()
        raise ApiError("overloaded", "full")
        yield

    with serving(events) as address:
        response = httpx.get(address)
    assert (response.status_code, response.json()) == (418, {"kind": "overloaded"})


@pytest.mark.parametrize(
    ("error", "said"),
    [(ApiError("internal", "broke"), "internal: broke"), (ZeroDivisionError(), "internal: The server failed")],
)
def test_an_error_behind_it_ends_the_stream_properly(error, said):
    async def events():
        yield "data: 1\n\n"
        raise error

    with serving(events) as address:
        text = httpx.get(address).text
    assert text.startswith("data: 1\n\n")
    assert text.count(said) == 1


def test_an_error_after_long_silence_ends_the_stream_properly():
    async def events():
        await _a_moment(0.2)
        raise ApiError("unavailable", "gone")
        yield

    with serving(events, idle_s=0.05) as address:
        response = httpx.get(address)
    assert response.status_code == 200
    assert response.text.endswith("data: unavailable: gone\n\n")


@pytest.mark.parametrize("silent", [True, False])
def test_a_client_that_leaves_ends_the_work(silent):
    ended = threading.Event()

    async def events():
        try:
            yield "data: 1\n\n"
            while True:
                await _a_moment(60 if silent else 0.0)
                yield "data: " + "x" * 1000 + "\n\n"
        finally:
            ended.set()

    with serving(events) as address:
        with httpx.stream("GET", address) as response:
            next(response.iter_bytes())
        assert ended.wait(3)


def test_a_client_that_reads_slowly_holds_the_work_up_and_may_leave():
    made, ended = [], threading.Event()

    async def events():
        try:
            for number in range(10_000):
                made.append(number)
                yield b"data: " + b"x" * 100_000 + b"\n\n"
        finally:
            ended.set()

    with serving(events) as address:
        with httpx.stream("GET", address) as response:
            pieces = response.iter_bytes()  # to lose it would close the connection
            next(pieces)
            time.sleep(0.3)
            assert len(made) < 1000  # a gigabyte in all
        assert ended.wait(3)


def test_a_whole_answer_ends_with_its_client_too():
    begun, ended = threading.Event(), threading.Event()

    async def work():
        try:
            begun.set()
            await _a_moment(60)
        finally:
            ended.set()

    async def endpoint(request):
        await request.body()
        await unless_gone(request, work())
        return JSONResponse({})

    with running(Starlette(routes=[Route("/", endpoint, methods=["POST"])])) as address:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address, content=b"x", timeout=0.5)
        assert begun.is_set()
        assert ended.wait(3)


async def _a_moment(seconds=0.01):
    await asyncio.sleep(seconds)
