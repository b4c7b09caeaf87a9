"""An engine in a child process: it loads, serves, dies, comes back, and leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import homegrown
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.worker.process import ProcessBackend, WorkerError
from homegrown.serve.worker.protocol import Launch

from ..engine.driving import CHUNK, request, told_alone
from ..tiny import tiny_directory

OPTIONS = EngineOptions(page_size=8, pages=100, chunk=CHUNK, invariant=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny_directory(tmp_path_factory.mktemp("served"))


def launch(folder, **changes):
    return Launch(**{"directory": str(folder), "device": "cpu", "threads": 1, "options": OPTIONS, **changes})


async def collect(backend, wanted):
    return [output async for output in backend.submit(wanted)]


def tokens(outputs):
    return [token for output in outputs for token in output.tokens]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition, seconds=60):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_whole_life(directory, capfd):
    """Loads and serves; killed, it fails what runs and starts anew; closed, it is gone."""
    model, _ = homegrown.load(directory)
    wanted = [request(str(n), [9 + n, 8], 5 + n) for n in range(4)]
    stages = []

    async def main():
        backend = ProcessBackend(launch(directory), lambda loading: stages.append(loading.stage), backoff=0.05)
        assert (await collect(backend, wanted[0]))[0].error.startswith("the engine is not running")
        await backend.start()
        assert backend.state == "ready"
        assert backend.ready.longest == 800
        assert [tokens(told) for told in await asyncio.gather(*(collect(backend, one) for one in wanted))] == [
            told_alone(model, one) for one in wanted
        ]
        await until(lambda: backend.stats().finished == len(wanted))

        stream = backend.submit(request("left", [5], 700))
        await anext(stream)
        await stream.aclose()
        await until(lambda: backend.stats().finished == len(wanted) + 1)
        assert backend.stats().running == 0

        first = backend.pid
        os.kill(first, signal.SIGINT)  # as a Ctrl-C in the terminal would, if it came through
        os.kill(first, signal.SIGTERM)
        lost = backend.submit(request("lost", [5], 700))
        await anext(lost)
        os.kill(first, signal.SIGKILL)
        assert "ended unexpectedly" in [output async for output in lost][-1].error
        assert "SIGKILL" in backend.reason
        assert backend.state in ("dead", "starting")
        await until(lambda: backend.state == "ready")
        assert backend.starts == 2
        assert backend.stats().finished >= len(wanted) + 1
        assert backend.stats().running == 0
        assert backend.pid != first
        assert tokens(await collect(backend, wanted[1])) == told_alone(model, wanted[1])

        aborted = backend.submit(request("aborted", [5], 700))
        await anext(aborted)
        second = backend.pid
        await backend.close()
        assert [output async for output in aborted][-1].finish == "abort"
        assert backend.state == "dead"
        assert not alive(first)
        assert not alive(second)
        await backend.close()

    asyncio.run(main())
    assert stages[:2] == ["loading libraries", "reading weights"]
    assert stages[2].startswith("rows that are decoded: ") and stages[3] == "making room for keys"
    assert capfd.readouterr().err == ""


def test_one_that_hangs_is_started_anew(directory):
    """Stopped, a child is alive and says nothing; idle, it may say nothing for as long as it likes."""

    async def main():
        backend = ProcessBackend(launch(directory), backoff=0.05, silence=1.0)
        await backend.start()
        first = backend.pid
        await asyncio.sleep(1.5)
        assert backend.pid == first
        running = backend.submit(request("lost", [5], 700))
        await anext(running)
        os.kill(first, signal.SIGSTOP)
        assert "ended unexpectedly" in [output async for output in running][-1].error
        assert "said nothing for 1 s" in backend.reason
        assert not alive(first)
        await until(lambda: backend.state == "ready")
        assert tokens(await collect(backend, request("next", [9, 8], 5)))
        await backend.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"directory": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"options": EngineOptions(memory=10)}, "engine.memory = 10"),
    ],
)
def test_what_cannot_begin(directory, changes, sentence, capfd):
    async def main():
        backend = ProcessBackend(launch(directory, **changes))
        with pytest.raises(WorkerError, match=sentence):
            await backend.start()
        assert backend.state == "dead"
        assert backend.pid == 0

    asyncio.run(main())
    assert "Traceback" not in capfd.readouterr().err


def test_closed_while_it_loads(directory):
    async def main():
        backend = ProcessBackend(launch(directory))
        starting = asyncio.create_task(backend.start())
        await until(lambda: backend.pid)
        pid = backend.pid
        began = time.monotonic()
        await backend.close()
        assert time.monotonic() - began < 5
        assert not alive(pid)
        with pytest.raises(WorkerError, match="closed before it was ready"):
            await starting

    asyncio.run(main())


PARENT = """
import asyncio, sys
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.worker.process import ProcessBackend
from homegrown.serve.worker.protocol import Launch

async def main():
    backend = ProcessBackend(Launch(directory=sys.argv[1], device="cpu", threads=1, options=EngineOptions(pages=9)))
    await backend.start()
    print(backend.pid, "torch" in sys.modules, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_ends_with_its_parent(directory):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with parent:
        pid, torch = parent.stdout.readline().split()
        assert torch == "False"  # the parent needs none of it
        parent.kill()
        deadline = time.monotonic() + 20
        while alive(int(pid)) and _state(int(pid)) != "Z" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(int(pid)) or _state(int(pid)) == "Z"
        assert parent.stderr.read() == ""


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
