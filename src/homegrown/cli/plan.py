"""`homegrown plan`: how long a run takes on which devices, what it needs, uses and costs; and what belongs to it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

SUMMARY = "plan a run before it is paid for: layout, step time, memory, failures, days, energy, cost, with intervals"


@dataclass(frozen=True)
class Subcommand:
    """A part of the command: the module whose `run(argv)` (or another function) does it, and one line about it."""

    module: str
    summary: str
    entry: str = "run"

    def __call__(self, argv: list[str]) -> int:
        """Do it."""
        done: int = getattr(importlib.import_module(self.module), self.entry)(argv)
        return done


SUBCOMMANDS = {
    "compare": Subcommand("homegrown.cli.plan_compare", "the same run on other chips: devices, days, energy, cost"),
    "serve": Subcommand("homegrown.cli.plan_serve", "devices for serving: prefill and decode pools for a traffic"),
    "validate": Subcommand(
        "homegrown.cli.plan_validate", "published runs, replayed from their inputs, with the errors"
    ),
    "chips": Subcommand("homegrown.cli.plan_listing", "chips that are known, with their figures", "chips"),
    "clusters": Subcommand(
        "homegrown.cli.plan_listing", "clusters that are known, with their links and failures", "clusters"
    ),
    "models": Subcommand("homegrown.cli.plan_listing", "models that are known, with their sizes", "models"),
}
"""What stands behind `homegrown plan`, beside a plan of a training run, by name."""

FROM_RUN = "--from-run"
"""Flag that calibrates on a measured run of this machine instead."""


def run(argv: list[str]) -> int:
    """Plan a training run, or hand over to a subcommand."""
    if argv and argv[0] in SUBCOMMANDS:
        return SUBCOMMANDS[argv[0]](argv[1:])
    if any(flag.partition("=")[0] == FROM_RUN for flag in argv):
        return Subcommand("homegrown.cli.plan_from_run", "")(argv)
    from homegrown.cli.plan_training import run as training

    return training(argv)
