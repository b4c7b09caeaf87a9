"""Processes that compute prompts and one that answers: together, and with either of them killed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import homegrown
from homegrown.serve.spread.pair import PairBackend
from homegrown.serve.worker.process import WorkerError

from ..engine.driving import random_requests, request, told_alone
from ..tiny import tiny_directory
from ..worker.test_process import OPTIONS, alive, collect, launch, tokens, until
from .test_replica_process import children


async def connected(backend: PairBackend) -> None:
    """Wait until prompts are computed where they should be."""
    await until(lambda: backend.stats().helpers == 1)


def test_kill_either_side(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without who computes prompts, answers go on; without who answers, they fail, and come back. Nothing is left."""
    folder = tiny_directory(tmp_path)
    model, _ = homegrown.load(folder)
    wanted = random_requests(model.config, 6, seed=3, most=12)
    long = request("long", [10 + number % 200 for number in range(400)], 6)
    expected = [told_alone(model, one) for one in [*wanted, long]]

    async def main() -> None:
        backend = PairBackend(launch(folder), [launch(folder)], backoff=0.05)
        await backend.start()
        assert backend.ready is not None
        pids = [backend.answering.pid, backend.computing[0].pid]
        told = await asyncio.gather(*(collect(backend, one) for one in wanted))
        assert [tokens(one) for one in told] == expected[:-1]
        await until(lambda: backend.computing[0].stats().prefill_tokens > 0)
        assert backend.answering.stats().prefill_tokens == backend.answering.stats().lost == 0
        assert backend.stats().prefill_tokens > 0

        before = backend.computing[0].stats().steps
        running = asyncio.create_task(collect(backend, long))
        await until(lambda: backend.computing[0].stats().steps > before)
        os.kill(pids[1], signal.SIGKILL)
        outputs = await running
        assert tokens(outputs) == expected[-1]
        assert outputs[-1].usage.transferred < 400
        assert backend.state == "ready"
        await until(lambda: backend.computing[0].state == "ready")
        await connected(backend)
        assert backend.stats().lost >= 1

        stream = backend.submit(request("lost", [5], 700))
        await anext(stream)
        os.kill(pids[0], signal.SIGKILL)
        last = [output async for output in stream][-1]
        assert (last.finish, "ended unexpectedly" in last.error) == ("error", True)
        await until(lambda: backend.state == "ready")
        await connected(backend)
        assert tokens(await collect(backend, wanted[0])) == expected[0]

        pids += [backend.answering.pid, backend.computing[0].pid]
        folders = [backend._folder]
        await backend.close()
        assert not any(alive(pid) for pid in pids)
        assert not any(folder.exists() for folder in folders)

    asyncio.run(main())
    said = capfd.readouterr().err
    assert "of its prompt are computed here: the connection to unix:" in said or "nobody who computes prompts" in said


@pytest.mark.slow
def test_each_side_of_two_ranks(tmp_path: Path) -> None:
    """Keys that arrive are written to the pages of all ranks."""
    folder = tiny_directory(tmp_path)
    model, _ = homegrown.load(folder)
    wanted = random_requests(model.config, 4, seed=6, most=10)

    async def main() -> None:
        backend = PairBackend(launch(folder, tp=2), [launch(folder, tp=2, ep=2)])
        await backend.start()
        try:
            told = await asyncio.gather(*(collect(backend, one) for one in wanted))
            assert [tokens(one) for one in told] == [told_alone(model, one) for one in wanted]
            assert backend.answering.stats().lost == 0
            assert len(children(backend.answering.pid)) == len(children(backend.computing[0].pid)) == 1
        finally:
            await backend.close()

    asyncio.run(main())


def test_a_start_that_fails(tmp_path: Path) -> None:
    folder = tiny_directory(tmp_path)
    backend = PairBackend(launch(folder), [launch(tmp_path / "nothing", options=OPTIONS)])
    with pytest.raises(WorkerError, match="no such directory"):
        asyncio.run(backend.start())
    assert backend.answering.pid == backend.computing[0].pid == 0
