"""A replica's processes: started by the first one, alive together, dead together."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import homegrown
from homegrown.serve.worker.process import ProcessBackend, WorkerError

from ..engine.driving import request, told_alone
from ..tiny import tiny_directory
from ..worker.test_process import alive, collect, launch, tokens, until


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_ranks_live_and_die_together(tmp_path: Path) -> None:
    folder = tiny_directory(tmp_path)
    wanted = [request(str(number), [9 + number, 8, 7], 12) for number in range(3)]
    expected = [told_alone(homegrown.load(folder)[0], one) for one in wanted]

    async def main() -> None:
        backend = ProcessBackend(launch(folder, tp=2, ep=2), backoff=0.05)
        await backend.start()
        try:
            told = await asyncio.gather(*(collect(backend, one) for one in wanted))
            assert [tokens(one) for one in told] == expected
            for victim in ("rank", "first"):
                starts, first = backend.starts, backend.pid
                (rank,) = children(first)
                stream = backend.submit(request("long", [5], 700))
                await anext(stream)
                os.kill(rank if victim == "rank" else first, signal.SIGKILL)
                last = [output async for output in stream][-1]
                assert (last.finish, "ended unexpectedly" in last.error) == ("error", True)
                await until(lambda both=(first, rank): not any(alive(pid) for pid in both))
                await until(lambda: backend.state == "ready")
                assert backend.starts == starts + 1
                assert ("rank 1 of the replica has ended" in backend.reason) == (victim == "rank")
                assert tokens(await collect(backend, wanted[0])) == expected[0]
            everyone = [backend.pid, *children(backend.pid)]
        finally:
            await backend.close()
        await until(lambda: not any(alive(pid) for pid in everyone))

    asyncio.run(main())


def test_a_model_that_does_not_divide(tmp_path: Path) -> None:
    backend = ProcessBackend(launch(tiny_directory(tmp_path), tp=3))
    with pytest.raises(WorkerError, match=r"parallel.tp = 3: must divide model.num_attention_heads = 2"):
        asyncio.run(backend.start())
