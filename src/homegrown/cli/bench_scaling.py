"""`homegrown bench scaling`: a step by one process, and shared by several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homegrown import device as devices
from homegrown.bench.record import default_path, write
from homegrown.bench.scaling import ScalingPlan, run_scaling, turns
from homegrown.bench.scaling.show import summary, table
from homegrown.cli.bench_compare import Against, judge_against
from homegrown.cli.common import bar, console, load_train_config, parse
from homegrown.config import UsageError

LEAST = {"processes": 2, "steps": 1, "repetitions": 1, "warmup": 0, "threads": 0, "sum_mib": 0}
"""Of flags that count something."""


@dataclass(frozen=True, kw_only=True)
class ScalingBench:
    """Measure what several processes make of this machine: optimizer steps of a small run, as training takes them, by
    one process with one thread and with several, without `deterministic`, and by processes of one thread that share it
    along each dimension; and a sum over the processes, in tree order and by the collective backend's own operation.

    All processes meet over the loopback interface and stay while everything has its turn again and again. Ends with a
    table on the screen and a JSON file that holds every measurement."""

    config: str = "quickstart"
    """The run whose step is taken: a recipe or a TOML file, as for `homegrown train`. Threads, layout and micro-batch
    are set here. With few steps, what a run does only later (the quickstart's draft head) is not in them."""
    data: Path | None = None
    """A dataset that `homegrown data` wrote; by default tokens are made up."""
    processes: int = 2
    """Processes that share a step."""
    layouts: tuple[Literal["dp", "ep", "cp", "tp", "pp"], ...] = ("dp", "ep", "cp", "tp")
    """Dimensions along which they do, one at a time. `pp` needs a layer for each process; the quickstart has one."""
    threads: int = 0
    """Of the one process with several; 0 takes all usable cores."""
    steps: int = 10
    """Steps of a turn; a multiple of `loss.indexer_every` makes turns alike."""
    repetitions: int = 6
    """Measured rounds; in each, everything has one turn."""
    warmup: int = 1
    """Rounds before them that do not count."""
    sum_mib: int = 16
    """MiB of float32 in the sums; 0 measures none."""
    device: str = "auto"
    """`auto` takes the accelerator PyTorch finds, else the CPU. Several processes need as many accelerators."""
    timeout: float = 300.0
    """Seconds a case may take to be ready, or for a turn."""
    out: Path | None = None
    """The JSON file; by default a dated one in `benchmarks/`."""
    against: Against = ""
    """Compare with an earlier record afterwards: a file, or `last` for the newest in `benchmarks/` of the same run and
    hardware. The exit status is 1 if something became slower beyond the noise (`homegrown bench compare`)."""


def scaling(argv: list[str]) -> int:
    """Measure, show, and write the record."""
    arguments = parse(ScalingBench, argv, "bench scaling")
    for name, least in LEAST.items():
        if getattr(arguments, name) < least:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {getattr(arguments, name)}: must be at least {least}")
    plan = ScalingPlan(
        config=load_train_config([arguments.config], "bench scaling"),
        data=arguments.data,
        processes=arguments.processes,
        layouts=arguments.layouts,
        threads=arguments.threads or devices.usable_cores(),
        steps=arguments.steps,
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        sum_bytes=arguments.sum_mib << 20,
        timeout_s=arguments.timeout,
    )
    keeps_memory = devices.keep_host_memory()
    devices.set_threads(plan.threads)
    device = devices.pick(arguments.device)
    with bar(turns(plan, device)) as tick:
        record = run_scaling(plan, device, ["bench", "scaling", *argv], tick, keeps_memory)
    out = arguments.out or default_path("scaling", Path(arguments.config).stem)
    write(record, out)
    console.print(table(record))
    print(f"{summary(record)}\nrecord: {out}")
    return judge_against(arguments.against, out)
