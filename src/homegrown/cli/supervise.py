"""`homegrown supervise`: a training run that goes on whatever happens to its workers."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from homegrown.cli.common import console, load_train_config
from homegrown.config import ConfigError, TrainConfig, UsageError
from homegrown.parallel.layout import settle
from homegrown.supervise.agent import Site
from homegrown.supervise.rules import Rules
from homegrown.supervise.supervisor import Address, join, lead

SUMMARY = "train with several workers and keep the run going when they die, hang, slow down or compute wrongly"

ABOUT = """Start workers of `homegrown train` on this host, watch them, and restart them from the newest checkpoint.

homegrown supervise CONFIG.toml --workers 8 --spares 1 [flags of train]

On several hosts, one of them leads and each names its workers:

homegrown supervise CONFIG.toml --workers 8 --hosts 4 --serve 10.0.0.1:29400
homegrown supervise CONFIG.toml --workers 8 --join 10.0.0.1:29400

What happens goes to RUN/supervisor.jsonl and, a line each, to the console; what workers print goes to
RUN/logs/rank-N.log; what they did when a fault was found to RUN/faults/. SIGINT and SIGTERM let them save and stop.
Flags that are not listed here are those of `homegrown train`."""


@dataclass(frozen=True, kw_only=True)
class Supervise:
    """How a run is supervised; times are seconds."""

    workers: int = 1
    """Workers on this host."""
    spares: int = 0
    """Further slots on this host, that take over from cordoned ones. A slot is a worker's local rank."""
    min_workers: int = 0
    """Go on with fewer workers, down to this many in all, when no slot is left to take over; 0 needs all of them."""
    hosts: int = 1
    """Hosts that form the run."""
    serve: str = ""
    """HOST:PORT at which this host leads a run of several hosts; agents share a secret in HOMEGROWN_TOKEN."""
    join: str = ""
    """HOST:PORT of the leading host."""
    name: str = ""
    """This host's name in the run; its host name by default."""
    hang_after: float = 300.0
    """A run hangs if a rank waits this long in a collective while none of its members has moved for as long."""
    stall_after: float = 1800.0
    """A rank may take this long over something else than a step (loading, say) while others wait for it, and no rank
    at all may stand still for longer; 0: for ever."""
    slow_factor: float = 1.5
    """Name a rank that takes this many times as long as the others outside collectives, ..."""
    slow_steps: int = 5
    """... in this many steps in a row."""
    cordon_slow: float = 0.0
    """Replace a rank that is slower than this factor; 0 never."""
    strikes: int = 2
    """Cordon a slot whose worker was killed by a signal this often."""
    max_restarts: int = 10
    """Give up after this many restarts in a row without a step beyond the furthest one reached."""
    backoff: float = 1.0
    """Pause before a restart; doubled for each further one without progress, up to --backoff-limit."""
    backoff_limit: float = 60.0
    """The longest pause."""
    lease: float = 15.0
    """An agent that cannot reach the leading host for this long ends its workers; the same on all hosts."""
    patience: float = 15.0
    """Wait this long for lost hosts before going on with fewer workers."""
    grace: float = 300.0
    """Time that workers have to save and stop."""
    selftest: str = ""
    """Command that a cordoned slot must pass, with the slot in LOCAL_RANK; `homegrown doctor --quick` by default."""
    command: str = ""
    """The workers' command, instead of `homegrown train` with the flags given; RUN is still --run."""
    watch: Path = Path()
    """Directory of the flight records, on a local disk; RUN/watch by default."""

    def rules(self) -> Rules:
        """These flags as rules of the run."""
        return Rules(
            workers=self.workers * self.hosts, min_workers=self.min_workers, hosts=self.hosts,
            hang_after=self.hang_after, stall_after=self.stall_after,
            slow_factor=self.slow_factor, slow_steps=self.slow_steps, cordon_slow=self.cordon_slow,
            strikes=self.strikes, max_restarts=self.max_restarts, backoff=self.backoff,
            backoff_limit=self.backoff_limit, lease=self.lease, patience=self.patience, grace=self.grace,
        )  # fmt: skip

    def site(self, run: Path, train: Sequence[str]) -> Site:
        """This host, for the run in a directory."""
        homegrown = [sys.executable, "-m", "homegrown"]
        return Site(
            name=self.name or socket.gethostname(),
            slots=self.workers + self.spares,
            command=shlex.split(self.command) or [*homegrown, "train", *train],
            selftest=shlex.split(self.selftest) or [*homegrown, "doctor", "--quick"],
            run=run,
            watch=run / "watch" if self.watch == Path() else self.watch,
            beat=min(2.0, self.lease / 15),
            lease=self.lease,
        )


def run(argv: list[str]) -> int:
    """Supervise a run until it is done."""
    arguments, train = tyro.cli(
        Supervise, args=argv, prog="homegrown supervise", description=ABOUT, return_unknown_args=True
    )
    if arguments.serve and arguments.join:
        raise UsageError("--serve and --join: a host leads or joins, not both")
    if arguments.hosts > 1 and not (arguments.serve or arguments.join):
        raise UsageError(f"--hosts {arguments.hosts}: the host that leads them needs --serve HOST:PORT")
    config = load_train_config(train)
    site = arguments.site(config.run.absolute(), train)

    def show(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    if arguments.join:
        return asyncio.run(join(site, Address.parse(arguments.join, "--join"), show))
    serve = Address.parse(arguments.serve, "--serve") if arguments.serve else None
    rules = arguments.rules()
    if not arguments.command:
        rules = dataclasses.replace(rules, fits=partial(layout_exists, config))
    return asyncio.run(lead(rules, site, show, serve))


def layout_exists(config: TrainConfig, world: int) -> bool:
    """Whether a run can be spread over so many processes."""
    try:
        settle(config.parallel, world, config.model, config.data)
    except ConfigError:
        return False
    return True
