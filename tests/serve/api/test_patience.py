import asyncio

from homegrown.serve.api.patience import patient
from homegrown.serve.events import Text


def listed(pause, seconds, stop_after=99):
    closed = []

    async def source():
        try:
            await asyncio.sleep(pause)
            yield Text(0, "a")
            yield Text(0, "b")
        finally:
            closed.append(True)

    async def run():
        events = patient(source(), seconds)
        seen = []
        async for event in events:
            seen.append(event)
            if len(seen) == stop_after:
                break
        await events.aclose()
        return seen

    return asyncio.run(run()), closed


def test_quick():
    assert listed(0, 5) == ([Text(0, "a"), Text(0, "b")], [True])


def test_slow():
    assert listed(0.05, 0.01) == ([None, Text(0, "a"), Text(0, "b")], [True])


def test_left_early():
    assert listed(60, 0.01, stop_after=1) == ([None], [True])
    assert listed(0, 5, stop_after=1) == ([Text(0, "a")], [True])


def test_an_error_passes_through():
    async def source():
        raise LookupError("gone")
        yield

    async def run():
        return [event async for event in patient(source(), 5)]

    try:
        asyncio.run(run())
    except LookupError as error:
        assert str(error) == "gone"
    else:
        raise AssertionError
