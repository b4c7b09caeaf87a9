"""An engine in a thread, asked from an event loop."""

import asyncio
import threading

import pytest

from homegrown.serve.messages import Output, Stats
from homegrown.serve.worker.thread import ThreadBackend

from ..engine.driving import engine, noisy_model, request, told_alone


@pytest.fixture(scope="module")
def model():
    return noisy_model()


def serving(runs, use):
    """Use a backend around an engine, and close it."""

    async def main():
        backend = ThreadBackend(runs)
        await backend.start()
        try:
            return await asyncio.wait_for(use(backend), 60)
        finally:
            await backend.close()

    return asyncio.run(main())


async def tokens(backend, wanted):
    outputs = [output async for output in backend.submit(wanted)]
    assert [output.finish is None for output in outputs] == [True] * (len(outputs) - 1) + [False]
    return [token for output in outputs for token in output.tokens]


def test_many_at_once(model):
    wanted = [request(str(n), [9 + n, 8], 5 + n) for n in range(6)]

    async def use(backend):
        assert backend.state == "ready"
        return await asyncio.gather(*(tokens(backend, one) for one in wanted))

    assert serving(engine(model), use) == [told_alone(model, one) for one in wanted]


def test_whoever_leaves_frees_its_pages(model):
    runs = engine(model, prefix_cache=False)

    async def use(backend):
        stream = backend.submit(request("a", range(20, 60), 900))
        await anext(stream)
        await stream.aclose()
        while backend.stats().finished == 0 or backend.stats().pages_used:
            await asyncio.sleep(0.01)
        return backend.stats()

    stats = serving(runs, use)
    assert stats.running == stats.pages_used == 0
    assert stats.decode_tokens < 900


def test_a_cancelled_task_leaves_too(model):
    runs = engine(model)

    async def use(backend):
        task = asyncio.create_task(tokens(backend, request("a", [5], 900)))
        while not backend.stats().running:
            await asyncio.sleep(0.01)
        task.cancel()
        while backend.stats().running:
            await asyncio.sleep(0.01)

    serving(runs, use)
    assert runs.idle


def test_closing_ends_what_runs(model):
    async def main():
        backend = ThreadBackend(engine(model))
        await backend.start()
        task = asyncio.create_task(_last(backend, request("a", [5], 900)))
        while not backend.stats().running:
            await asyncio.sleep(0.01)
        await backend.close()
        assert (await task).finish == "abort"
        assert (await _last(backend, request("b", [5]))).finish == "error"
        assert backend.state == "dead"

    asyncio.run(main())
    assert "engine" not in [thread.name for thread in threading.enumerate()]


def test_the_same_id_twice(model):
    async def use(backend):
        first = backend.submit(request("a", [5], 30))
        await anext(first)
        second = await _last(backend, request("a", [6]))
        rest = [output async for output in first]
        return second.error, rest[-1].finish

    error, finish = serving(engine(model), use)
    assert "'a' is running already" in error
    assert finish == "length"


class Broken:
    """An engine whose steps fail."""

    idle = False

    def add(self, request):
        self.came = request

    def abort(self, request_id):
        pass

    def stats(self):
        return Stats()

    def step(self) -> list[Output]:
        if hasattr(self, "came"):
            raise RuntimeError("out of luck")
        return []


def test_an_engine_that_fails(capfd):
    async def use(backend):
        last = await _last(backend, request("a", [5]))
        return last, backend.state

    last, state = serving(Broken(), use)
    assert (last.finish, state) == ("error", "dead")
    assert "engine failed" in last.error
    assert "out of luck" in capfd.readouterr().err


async def _last(backend, wanted):
    return [output async for output in backend.submit(wanted)][-1]
