"""Where processes other than the first speak: a file each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from homegrown.parallel import flight


def to_log(folder: Path, rank: int) -> Console:
    """Let everything this process prints, warnings and tracebacks of libraries included, go to `rank-00003.log`.

    The file is added to, so that it tells of earlier attempts as well. A supervised process stays where its supervisor
    put it, which is such a file already.

    Returns:
        A console that writes there.
    """
    if flight.ATTEMPT in os.environ:
        return Console(stderr=True, force_terminal=False, width=120)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"rank-{rank:05d}.log").open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    return Console(stderr=True, force_terminal=False, width=120)
