"""`homegrown bench`: measurements against this machine's limits and against peers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homegrown.config import UsageError

SUMMARY = "measure training, inference and servers, against this machine's limits and against transformers"


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """Measure one training step (forward and backward of the next-token loss) of a LongCat-Flash model: Homegrown in
    float32 and bfloat16, `transformers` with the same weights in each of its modes, and the matrix-multiply peak of the
    machine, turn by turn in one run. Both must agree on loss and gradient first, or nothing is measured.

    Ends with a table on the screen and a JSON file that holds every measurement."""

    shape: Literal["quickstart", "tiny", "small"] = "tiny"
    """Model and batch: `quickstart` (the quickstart's model without n-gram tables, sparse attention and draft head,
    8 x 512 tokens), `tiny` (68M parameters, 21M active, 4 x 512), `small` (355M parameters, 132M active, 2 x 512)."""
    batch: int = 0
    """Sequences a step; 0 takes the shape's."""
    seq_len: int = 0
    """Tokens a sequence; 0 takes the shape's."""
    repetitions: int = 5
    """Measured rounds; in each, everything has one turn."""
    warmup: int = 2
    """Rounds before them that do not count."""
    peer: bool = True
    """Measure `transformers` too."""
    compiled: bool = False
    """Measure its compiled modes too; compiling takes a minute or more each."""
    optimizer: Literal["none", "adamw", "muon"] = "none"
    """Also time an optimizer step, reported apart: AdamW on both sides, or Muon on ours."""
    threads: int = 0
    """CPU threads; 0 takes all usable cores."""
    device: str = "auto"
    """`auto` takes the accelerator PyTorch finds, else the CPU."""
    seed: int = 0
    """Seeds weights and tokens."""
    out: Path | None = None
    """The JSON file; by default a dated one in `benchmarks/`."""
    against: str = ""
    """Compare with an earlier record afterwards: a file, or `last` for the newest in `benchmarks/` of the same kind,
    shape and hardware. The exit status is 1 if something became slower beyond the noise (`homegrown bench compare`)."""


def run(argv: list[str]) -> int:
    """Hand over to a benchmark."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, *rest = argv
    if name not in BENCHMARKS:
        raise UsageError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name].run(rest)


def train(argv: list[str]) -> int:
    """`homegrown bench train`."""
    from homegrown.cli.bench_compare import judge_against
    from homegrown.cli.common import bar, console, parse

    arguments = parse(TrainBench, argv, "bench train")
    if arguments.repetitions < 1 or arguments.warmup < 0:
        raise UsageError(
            f"{arguments.repetitions} repetitions after {arguments.warmup} rounds of warm-up: at least one repetition "
            "is needed, and no fewer than zero rounds"
        )
    from homegrown import device as devices
    from homegrown.bench import TrainPlan, run_train
    from homegrown.bench.record import default_path, write
    from homegrown.bench.shapes import shape
    from homegrown.bench.show import summary, table
    from homegrown.bench.train import turns

    plan = TrainPlan(
        shape=shape(arguments.shape, arguments.batch, arguments.seq_len),
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        peer=arguments.peer,
        compiled=arguments.compiled,
        optimizer=arguments.optimizer,
        seed=arguments.seed,
    )
    keeps_memory = devices.keep_host_memory()
    devices.set_threads(arguments.threads)
    with bar(turns(plan)) as tick:
        record = run_train(plan, devices.pick(arguments.device), ["bench", "train", *argv], tick, keeps_memory)
    out = arguments.out or default_path("train", plan.shape.name)
    write(record, out)
    console.print(table(record))
    print(f"{summary(record)}\nrecord: {out}")
    return judge_against(arguments.against, out)


def _from(module: str, name: str) -> Callable[[list[str]], int]:
    """A command that is imported when it runs: help must not wait for torch."""

    def command(argv: list[str]) -> int:
        found: Callable[[list[str]], int] = getattr(importlib.import_module(f"homegrown.cli.{module}"), name)
        return found(argv)

    return command


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: what runs it, and one line about it."""

    run: Callable[[list[str]], int]
    summary: str


BENCHMARKS = {
    "train": Benchmark(train, "one training step against the matrix-multiply peak, and against transformers"),
    "prefill": Benchmark(
        _from("bench_speed", "prefill"), "reading prompts of several lengths; --long: up to 128K tokens"
    ),
    "decode": Benchmark(
        _from("bench_speed", "decode"), "writing, for several texts at a time behind contexts of several lengths"
    ),
    "kernels": Benchmark(
        _from("bench_speed", "kernels"), "every op at a model's sizes, each implementation against its floor"
    ),
    "load": Benchmark(_from("bench_speed", "load"), "imports, the help page, and loading a checkpoint"),
    "scaling": Benchmark(
        _from("bench_scaling", "scaling"), "a small run's step by one process, and shared by several in each layout"
    ),
    "serve": Benchmark(
        _from("bench_serve", "serve"),
        "a server under load: latencies, throughput, goodput; against transformers' server",
    ),
    "compare": Benchmark(_from("bench_compare", "compare"), "two records: what became slower beyond the noise of both"),
    "goals": Benchmark(
        _from("bench_compare", "goals"), "the goals for one machine, and what the newest records say of them"
    ),
}
"""Benchmarks by name."""


def _help() -> str:
    width = max(map(len, BENCHMARKS))
    lines = ["usage: homegrown bench BENCHMARK [ARGUMENTS]", "", "Measure this machine and what runs on it.", ""]
    lines += [f"  {name:<{width}}  {benchmark.summary}" for name, benchmark in BENCHMARKS.items()]
    return "\n".join([*lines, "", "`homegrown bench BENCHMARK --help` explains one."])
