"""The peer: the server of `transformers`, and its `generate` on static batches, with the same checkpoint and load.

What `transformers serve` does with a LongCat-Flash checkpoint (5.23): requests run one after the other, each by
`generate`. With `--continuous-batching` it accepts a request, never answers it, and goes on calling itself healthy, so
that mode is not measured. It refuses fields it does not know, takes only text for a prompt, and reads a
`generation_config` from the request, which is how answers get an exact length.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from homegrown.bench.peer import PEER
from homegrown.bench.serve.sessions import Session
from homegrown.config import UserError

BATCH = 8
"""Prompts of a static batch."""

_FIND = "from transformers.utils.import_utils import is_serve_available; print(is_serve_available())"
_START = "from transformers.cli.transformers import main; main()"


def refuse_missing_server(python: str) -> None:
    """Raise `UserError` unless an interpreter has the peer and what its server needs."""
    try:
        found = subprocess.run([python, "-c", _FIND], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--peer-python {python}: {error.strerror}; name an interpreter that has {PEER}") from None
    if found.stdout.strip() != "True":
        raise UserError(
            f"{python} cannot run `{PEER} serve`: install what it needs (`{python} -m pip install "
            f"'{PEER}[serving]'`), or name by --peer-python the interpreter of an environment that has it"
        )


def server_command(python: str, model: Path, threads: int) -> tuple[list[str], dict[str, str]]:
    """What starts the peer's server, and its environment: as many threads as the contestant has."""
    command = [python, "-c", _START, "serve", str(model), "--host", "127.0.0.1", "--port", "{port}"]
    return [*command, "--log-level", "error"], {"OMP_NUM_THREADS": str(threads)}


@dataclass(frozen=True)
class Prompt:
    """A prompt and how many tokens are to follow."""

    text: str
    output: int


@dataclass(frozen=True)
class StaticRun:
    """What static batching made of a load: tokens that were asked for, and seconds. Padding and what a row writes while
    longer ones of its batch go on are not counted."""

    tokens: int
    seconds: float

    @property
    def output_throughput(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class StaticBatches:
    """`generate` of the peer in a process of its own, in batches of 8 in order of arrival.

    A batch is padded on the left to its longest prompt and runs until its longest answer is complete. The process is
    idle between runs.

    Args:
        python: interpreter with the peer.
        model: the checkpoint.
        threads: CPU threads.

    Raises:
        UserError: the peer cannot load it.
    """

    def __init__(self, python: str, model: Path, threads: int) -> None:
        script = Path(__file__).with_name("static.py").read_text(encoding="utf-8")
        command = [python, "-c", script, str(model), str(threads), str(BATCH)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def run(self, sessions: Sequence[Session]) -> StaticRun:
        """Run the first turns of sessions."""
        prompts = [Prompt(session.prefix + session.turns[0].text, session.turns[0].output) for session in sessions]
        self._write([asdict(prompt) for prompt in prompts])
        return StaticRun(**self._answer())

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)

    def _write(self, message: Any) -> None:
        if self._process.stdin is None:
            raise UserError("the peer's process has no input")
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise UserError(f"{PEER} ended with status {self._process.wait()} when it should batch; see above for why")
        return dict(json.loads(line))
