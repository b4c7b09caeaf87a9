"""Real processes for distributed tests: one set per test file, many cases inside it."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.multiprocessing as mp

from homegrown.parallel import world

TIMEOUT_S = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(
    size: int, function: Callable[..., Any], *args: Any, timeout_s: float = TIMEOUT_S, device: str = "cpu"
) -> list[Any]:
    """Run function(world, *args) in `size` processes that have met; what each returned (picklable values; tensors are
    copied, since the process that made them is gone when they are looked at).

    Each joins with `device`.

    The first failure is raised here with its traceback, and all processes are ended.
    """
    context = mp.get_context("spawn")
    port = free_port()
    pipes, processes = [], []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_enter, args=(rank, size, port, device, sender, function, args), daemon=True)
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        return _collect(pipes, processes, time.monotonic() + timeout_s)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def _collect(pipes: list[Any], processes: list[Any], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        left = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(left, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {sorted(set(range(len(pipes))) - results.keys())} did not finish in time")
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                failure, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                processes[rank].join(5)
                raise RuntimeError(f"rank {rank} died with exit code {processes[rank].exitcode}") from None
            if failure:
                raise RuntimeError(f"rank {rank} failed:\n{failure}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _enter(
    rank: int, size: int, port: int, device: str, sender: Any, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    try:
        here = world.join(device, timeout_s=180)
        value = function(here, *args)
        sender.send_bytes(pickle.dumps(("", value)))
        world.leave()
    except BaseException:  # whatever it was, the parent shows it
        sender.send_bytes(pickle.dumps((traceback.format_exc(), None)))
        sys.exit(1)
