"""`homegrown doctor`: the self-test of a node."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

SUMMARY = "check that this machine can train: devices, kernels, collectives, and how fast they are"


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine this machine, alone or, under torchrun, all processes of a job together: what the devices are, how fast
    they multiply and move memory, whether the kernels that training uses are right and repeat themselves bit for bit,
    and whether collectives among 2, 4, 8, ... neighbours are right and how fast.

    Ends with tables and a verdict; the exit status is 0 if the machine is fit to train and 1 if it is not. Processes
    that compute other bits than their equals, or are slower, are named."""

    quick: bool = False
    """A self-test of a few seconds: small inputs and few repetitions, the same checks."""
    device: str = "auto"
    """`auto` takes the accelerator PyTorch finds, else the CPU; under a launcher, the LOCAL_RANK-th."""
    threads: int = 0
    """CPU threads; 0 takes all usable cores, or as many as OMP_NUM_THREADS says."""
    json: Path | None = None
    """Write everything that was found to this file."""
    like: Path | None = None
    """A file that --json wrote on a sound machine of the same kind: other bits than there are a fault."""
    timeout: float = 120.0
    """Seconds to wait for the other processes, at the start and in every call."""


def run(argv: list[str]) -> int:
    """Examine, show, and return the verdict as the exit status."""
    from homegrown.cli.common import bar, console, parse

    arguments = parse(Doctor, argv, "doctor")
    from homegrown import device as devices
    from homegrown.bench.doctor import Plan, examine
    from homegrown.bench.doctor.examine import ticks
    from homegrown.bench.doctor.judge import compare
    from homegrown.bench.doctor.report import read, write
    from homegrown.bench.doctor.show import findings, tables, verdict
    from homegrown.parallel.world import join, leave

    earlier = read(arguments.like) if arguments.like else None
    world = join(arguments.device, arguments.timeout)
    try:
        devices.set_threads(arguments.threads)
        plan = Plan.of(arguments.quick, arguments.timeout)
        speaks = world.rank == 0
        with bar(ticks(plan, world)) if speaks else nullcontext(lambda label: None) as tick:
            report = examine(world, plan, argv, tick)
    finally:
        leave()
    if earlier is not None:
        report = compare(report, earlier, str(arguments.like))
    # A process that lost the others speaks for itself.
    if speaks or len(report.nodes) < world.size:
        for table in tables(report):
            console.print(table)
        console.print(findings(report), end="")
        if arguments.json is not None and speaks:
            write(report, arguments.json)
        print(verdict(report))
    return 0 if report.healthy else 1
