"""Runs a training command in child processes and kills them, again and again; then lets it finish.

`python killing.py RUN.toml KILLS SEED` prints one JSON object a kill and ends with the last child's exit status.
Children are forked from this process, which has imported everything and started no thread, so that an attempt costs
what training costs and not what starting Python does.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from homegrown.cli.main import main
from homegrown.config import TrainConfig, build, read_toml
from homegrown.train import pretrain  # noqa: F401 - imported here so that no child has to
from homegrown.train.checkpoint import load_newest

POLL_SECONDS = 0.0005
LONGEST = {"starting": 0.8, "stepping": 0.2, "saving": 0.05}
"""Seconds into a phase at which a child is killed at the latest."""


def start(arguments: list[str]) -> int:
    """Fork a child that runs the command; its process number."""
    child = os.fork()
    if not child:
        os._exit(main(arguments))
    return child


def wait_for(child: int, seen: Callable[[], bool]) -> bool:
    """Wait until something is seen; False if the child ended first."""
    while not seen():
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        time.sleep(POLL_SECONDS)
    return True


def moment(phase: str, run: Path, rng: random.Random) -> Callable[[], bool]:
    """Tells when a child is in a phase: `starting`, `stepping`, or `saving` for the first, second or third time."""
    saves = set((run / "checkpoints").glob(".step-*.tmp"))
    begun = saves.copy()
    wanted = len(saves) + rng.randint(1, 3)
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().count(b'"kind":"train"') if metrics.exists() else 0

    def seen() -> bool:
        if phase == "saving":
            begun.update((run / "checkpoints").glob(".step-*.tmp"))
            return len(begun) >= wanted
        if phase == "stepping":
            return metrics.exists() and metrics.read_bytes().count(b'"kind":"train"') != lines
        return True

    return seen


def torment(file: Path, kills: int, seed: int) -> int:
    """Kill `kills` times, every second time within a save, then run to the end."""
    rng = random.Random(seed)
    run = build(TrainConfig, read_toml(file), str(file)).run
    for number in range(kills):
        phase = ("saving", "stepping", "saving", "starting")[number % 4]
        seen = moment(phase, run, rng)
        child = start(["train", str(file), "--checkpoint.every-steps", str(rng.randint(1, 3))])
        killed = wait_for(child, seen)
        if killed:
            time.sleep(rng.uniform(0, LONGEST[phase]))
            os.kill(child, signal.SIGKILL)
            killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        newest, complaints = load_newest(run / "checkpoints")
        facts = {
            "phase": phase,
            "killed": killed,
            "step": None if newest is None else newest.step,
            "complaints": complaints,
            "leftovers": [entry.name for entry in (run / "checkpoints").glob(".*")],
        }
        print(json.dumps(facts), flush=True)
    return os.waitstatus_to_exitcode(os.waitpid(start(["train", str(file)]), 0)[1])


if __name__ == "__main__":
    sys.exit(torment(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
