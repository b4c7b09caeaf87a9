"""Servers that a benchmark starts itself, and ends."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from homegrown.bench.serve.http import Client, HttpError
from homegrown.config import UserError

HOST = "127.0.0.1"
START_S = 300.0
"""Seconds in which a server must be ready."""
END_S = 30.0
"""Seconds in which it must have ended once told to."""
_LINES = 12


@contextmanager
def running(command: Sequence[str], ready: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a server while the block runs.

    Args:
        command: starts it; `{port}` in it becomes a free port.
        ready: path that answers 200 once requests are taken.
        environment: further variables.

    Yields:
        Its URL.

    Raises:
        UserError: it ended, or was not ready in time; the message has the last lines it wrote.
    """
    port = free_port()
    url = f"http://{HOST}:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        try:
            why = _wait(process, url, ready)
            if why:
                log.seek(0)
                said = log.read().decode("utf-8", "replace").strip().splitlines()[-_LINES:]
                raise UserError("\n".join([f"`{' '.join(process.args)}` {why}; it said:", *said]))  # type: ignore[arg-type]
            yield url
        finally:
            _end(process)


def homegrown_command(model: Path, arguments: Sequence[str]) -> list[str]:
    """`homegrown serve` on this machine alone, with this interpreter."""
    own = ["--host", HOST, "--port", "{port}", "--log", "off"]
    return [sys.executable, "-m", "homegrown", "serve", str(model), *own, *arguments]


def free_port() -> int:
    """A port of the loopback address that nobody listens at."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, ready: str) -> str:
    """Wait until a server is ready; why it will not be, else."""
    late = time.monotonic() + START_S
    while time.monotonic() < late:
        if process.poll() is not None:
            return f"ended with status {process.returncode}"
        if asyncio.run(_answers(url, ready)):
            return ""
        time.sleep(0.2)
    return f"was not ready after {START_S:.0f} s"


async def _answers(url: str, path: str) -> bool:
    client = Client(url)
    try:
        async with asyncio.timeout(5):
            status, _ = await client.get(path)
        return status == 200
    except (HttpError, TimeoutError):
        return False
    finally:
        await client.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
