from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from homegrown.supervise.drill import Plan

TOY = Path(__file__).with_name("toy.py")


@pytest.fixture
def toy() -> Callable[..., list[str]]:
    """Flags of `homegrown supervise` that run the toy in a directory."""

    def flags(run: Path, *more: str, steps: int = 40, transport: str = "sockets", pace: float = 0.005) -> list[str]:
        return toy_flags(run, *more, steps=steps, transport=transport, pace=pace)

    return flags


def toy_flags(run: Path, *more: str, steps: int, transport: str, pace: float) -> list[str]:
    program = [sys.executable, str(TOY), str(run), "--steps", str(steps), "--transport", transport]
    return ["--command", shlex.join([*program, "--pace", str(pace), *more]), "--run", str(run)]


def toy_plan(out: Path, transport: str, workers: int = 2, steps: int = 40) -> Plan:
    """A drill of the toy."""

    def program(run: Path) -> Sequence[str]:
        return toy_flags(run, steps=steps, transport=transport, pace=0.005)

    return Plan(program=program, workers=workers, steps=steps, flags=FLAGS, out=out)


FLAGS = ["--hang-after", "1.5", "--stall-after", "60", "--selftest", "true"]
