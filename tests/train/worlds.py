"""Worlds of real processes that may be killed: each case in fresh ones, forked from a server that has imported all."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from homegrown.parallel.groups import Group

GROUP_TIMEOUT = timedelta(seconds=20)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch.distributed.checkpoint", "homegrown.train.checkpoint", __name__])


def run(world: int, function: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Any]:
    """What `function(Group, *args)` returns on each of `world` processes; `None` for one that was killed.

    Raises:
        AssertionError: a process failed or took too long; shows the first traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes = [_context.Pipe(duplex=False) for _ in range(world)]
        processes = [
            _context.Process(target=_rank, args=(rank, world, Path(folder) / "store", pipes[rank][1], function, args))
            for rank in range(world)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        deadline = time.monotonic() + timeout
        words = [_word(receiver, deadline) for receiver, _ in pipes]
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
    faults = [word[1] for word in words if word is not None and word[0] == "failed"]
    assert not faults, faults[0]
    return [None if word is None else word[1] for word in words]


def _word(receiver: Connection, deadline: float) -> tuple[str, Any] | None:
    if not receiver.poll(max(0.0, deadline - time.monotonic())):
        return "failed", "a process took too long"
    try:
        return receiver.recv()
    except EOFError:
        return None


def _rank(rank: int, world: int, store: Path, sender: Connection, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=GROUP_TIMEOUT
        )
        sender.send(("done", function(Group("world", tuple(range(world)), rank, dist.group.WORLD), *args)))
    except BaseException:
        sender.send(("failed", f"rank {rank}: {traceback.format_exc()}"))
    finally:
        sender.close()
