"""`homegrown serve` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..http.live import until


class Child:
    """A server that was started from the command line.

    Args:
        log: what it says goes there.
        arguments: behind `homegrown serve`.

    Attributes:
        process: the server's; its only child is the engine's.
        url: where it listens.
    """

    def __init__(self, log: Path, *arguments: str) -> None:
        self._log = log
        command = [sys.executable, "-m", "homegrown", "serve", *arguments]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stderr=file, env={**os.environ, "COLUMNS": "200"})
        until(lambda: "\ncurl " in self.said or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.said
        found = re.search(r"^url +(\S+) *$", self.said, re.MULTILINE)
        assert found, self.said
        self.url = found[1]

    @property
    def said(self) -> str:
        """Everything on its stderr so far."""
        return self._log.read_text()

    @property
    def example(self) -> str:
        """The command that it shows for a first request."""
        found = re.search(r"^curl .*$", self.said, re.MULTILINE)
        assert found, self.said
        return found[0]


@contextmanager
def child(log: Path, *arguments: str) -> Iterator[Child]:
    """A server, until the block ends."""
    server = Child(log, *arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(30)
