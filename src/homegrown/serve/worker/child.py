"""The child process: loads a model, runs an engine, and ends with its parent.

Orders come through a thread that reads the socket, so that neither loading nor a step keeps the end of the parent from
being noticed.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from homegrown.config import ConfigError, UserError
from homegrown.serve.worker import protocol as say
from homegrown.serve.worker.serving import Inbox, Send, serve

if TYPE_CHECKING:
    import torch

    from homegrown.serve.engine.engine import Engine

GRACE = 5.0
"""Seconds in which the process ends by itself once the parent is gone."""


def main(descriptor: int) -> NoReturn:
    """Serve the parent at the other end of a socket.

    The process ends without the interpreter's and libraries' cleaning up: threads of these may still run, and what they
    say about being torn down helps nobody.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal's or service manager's signals are the parent's to heed
    status = _serve(socket.socket(fileno=descriptor))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve(sock: socket.socket) -> int:
    launch = say.receive(sock)
    if not isinstance(launch, say.Launch):
        return 0 if launch is None else 1
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sock, inbox), daemon=True).start()

    lock = threading.Lock()

    def send(report: say.Report) -> None:
        with lock:
            sock.sendall(say.frame(report))

    try:
        serve(_load(launch, send, inbox), inbox, send)
    except ConnectionError:
        return 0  # the parent is gone
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        send(say.Failed(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"))
        return 1
    return 0


def _read(sock: socket.socket, inbox: Inbox) -> None:
    while (order := say.receive(sock)) is not None:
        inbox.put(order)
    inbox.put(say.Close())
    time.sleep(GRACE)
    os._exit(0)


def _load(launch: say.Launch, send: Send, inbox: Inbox) -> Engine:
    """An engine around the model of a directory; progress is sent."""
    began = time.monotonic()

    def stage(name: str) -> None:
        send(say.Loading(name, time.monotonic() - began))

    stage("loading libraries")
    from homegrown import device
    from homegrown.model.native import native_words
    from homegrown.serve.spread.roles import Parts, engine_for
    from homegrown.serve.weights import load_for_serving

    if launch.tp > 1 or launch.ep > 1:
        if launch.weights != "stored":
            raise ConfigError(f"weights = {launch.weights}: a replica of several processes takes weights as stored")
        from homegrown.serve.spread.replica import first_of_ranks

        parts = first_of_ranks(launch, stage, lambda reason: _give_up(reason, send))
    else:
        device.set_threads(launch.threads)
        model, tokenizer, report = load_for_serving(
            launch.directory,
            device.pick(_device(launch)),
            dtype_of(launch),
            launch.weights,
            launch.weights_check,
            stage,
        )
        for line in report.lines():
            stage(line)
        stage(f"rows that are decoded: {native_words(model)}")
        stage("making room for keys")
        parts = Parts(model.eval(), tokenizer)
    engine = engine_for(launch, parts, lambda: inbox.put(say.Wake()))
    send(say.Ready(time.monotonic() - began, engine.longest, engine.stats().pages, launch.options.page_size))
    return engine


def dtype_of(launch: say.Launch) -> torch.dtype | None:
    """What weights are converted to; `None` for nothing."""
    import torch

    return None if launch.dtype == "stored" else getattr(torch, launch.dtype)


def _device(launch: say.Launch) -> str:
    """The device's name."""
    from homegrown import device

    accelerators = device.available()[1:]  # the CPU comes first; any number of processes share it
    kind = accelerators[0].partition(":")[0] if accelerators else ""
    if not launch.first or not accelerators or launch.device not in ("auto", kind):
        return launch.device
    if launch.first >= len(accelerators):
        raise UserError(
            f"{launch.first + 1} accelerators are needed, one for each process, and this host has {len(accelerators)}; "
            "start fewer processes, or name one device for all by --device"
        )
    return accelerators[launch.first]


def _give_up(reason: str, send: Send) -> None:
    """End this process from whatever thread, whatever the others wait for."""
    with suppress(ConnectionError):
        send(say.Failed(reason))
    sys.stderr.flush()
    os._exit(1)
