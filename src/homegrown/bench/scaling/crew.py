"""Processes of this machine that do what they are told, again and again, until they are sent home."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch.multiprocessing as multiprocessing

from homegrown import device as devices
from homegrown.config import UserError
from homegrown.parallel import world

Task = Callable[[Any], Any]
"""What a member does with an order; both are picklable."""

GOODBYE_S = 60.0
"""How long a member may take to go home; on a busy machine, many who leave at once take a while."""


class CrewError(UserError):
    """A member failed, died or did not answer; the message says which, and shows its traceback where it has one."""


class Crew:
    """Processes that have met over the loopback interface, and wait for orders.

    Args:
        name: for messages.
        size: how many. One process has no process group.
        recruit: called in each as recruit(world, *arguments) once they have met; makes the task it will do.
        arguments: picklable.
        device: as for `parallel.world.join`.
        timeout_s: how long they may take to be ready, and then for an order.
    """

    def __init__(
        self, name: str, size: int, recruit: Callable[..., Task], *arguments: Any, device: str, timeout_s: float
    ) -> None:
        self.name, self.size, self._timeout_s = name, size, timeout_s
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        context = multiprocessing.get_context("spawn")  # a forked process may not use what its parent's threads hold
        port = _free_port()
        try:
            for rank in range(size):
                here, there = context.Pipe()
                given = (rank, size, port, device, timeout_s, there, recruit, arguments)
                process = context.Process(target=_serve, args=given, name=f"{name}, rank {rank}", daemon=True)
                process.start()
                there.close()
                self._pipes.append(here)
                self._processes.append(process)
            self._answers()
        except BaseException:
            self.kill()
            raise

    def ask(self, order: Any) -> list[Any]:
        """What every member makes of an order, by rank.

        Raises:
            CrewError: one failed, died or did not answer in time. All of them are ended then.
        """
        try:
            for rank, pipe in enumerate(self._pipes):
                self._tell(rank, pipe, order)
            return self._answers()
        except BaseException:
            self.kill()
            raise

    def close(self) -> None:
        """Send everyone home. Each closes its connections and ends as a program does; nobody is killed who goes.

        Raises:
            CrewError: one went another way; the message has its exit code.
        """
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(GOODBYE_S)
        codes = [process.exitcode for process in self._processes]
        self.kill()
        if any(codes):
            raise CrewError(f"{self.name}: its processes ended with exit codes {codes}; right is 0")
        if None in codes:
            raise CrewError(f"{self.name}: a process did not end within {GOODBYE_S:g} s and was killed")

    def kill(self) -> None:
        """End everyone, now."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()

    def _tell(self, rank: int, pipe: Connection, order: Any) -> None:
        try:
            pipe.send(order)
        except OSError:
            raise self._died(rank) from None

    def _answers(self) -> list[Any]:
        deadline = time.monotonic() + self._timeout_s
        answers: dict[int, Any] = {}
        while len(answers) < self.size:
            left = {pipe: rank for rank, pipe in enumerate(self._pipes) if rank not in answers}
            ready = wait(list(left), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise CrewError(f"{self.name}: ranks {list(left.values())} gave no answer in {self._timeout_s:g} s")
            for pipe in ready:
                rank = next(rank for other, rank in left.items() if other is pipe)
                answers[rank] = self._answer(rank)
        return [answers[rank] for rank in range(self.size)]

    def _answer(self, rank: int) -> Any:
        try:
            failure, value = self._pipes[rank].recv()
        except (EOFError, OSError):
            raise self._died(rank) from None
        if failure:
            raise CrewError(f"{self.name}: rank {rank} failed:\n{failure}")
        return value

    def _died(self, rank: int) -> CrewError:
        self._processes[rank].join(GOODBYE_S)
        return CrewError(f"{self.name}: rank {rank} died with exit code {self._processes[rank].exitcode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(
    rank: int, size: int, port: int, device: str, timeout_s: float, orders: Connection,
    recruit: Callable[..., Task], arguments: tuple[Any, ...],
) -> None:  # fmt: skip
    """A member's life. It ends when the other end of `orders` is closed, and so with the process that holds it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all of its processes; the first one decides
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    devices.stay_on_loopback()
    try:
        task = recruit(world.join(device, timeout_s), *arguments)
        _reply(orders, "", None)
        while True:
            _reply(orders, "", task(orders.recv()))
    except (EOFError, ConnectionError):
        pass  # nobody is listening any more
    except BaseException:  # whatever it was, it is shown on the other side
        _reply(orders, traceback.format_exc(), None)
    finally:
        world.leave()


def _reply(orders: Connection, failure: str, value: Any) -> None:
    orders.send_bytes(pickle.dumps((failure, value)))
