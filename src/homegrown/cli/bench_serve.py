"""`homegrown bench serve`: a server under load."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from homegrown import device as devices
from homegrown.bench.record import default_path
from homegrown.bench.serve import SCENARIOS, Load, ServePlan, run_serve, turns, write
from homegrown.bench.serve.figures import Slo
from homegrown.bench.serve.show import summary, tables
from homegrown.bench.serve.target import Asking
from homegrown.cli.common import bar, console, parse
from homegrown.config import UsageError

KEY = "HOMEGROWN_API_KEY"
DEFAULT = "chat"

_ABOUT = "\n\n".join(
    [
        "Put a server under load and measure what its clients see: times to the first token (TTFT), per token (TPOT), "
        "between pieces of text (ITL) and to the end, throughput, goodput, prefix hits, acceptance, failures. Ends "
        "with tables on the screen and a JSON file, whose figures have the names that vLLM's `bench serve` gives them.",
        "A scenario is a load, which flags change:",
        *(f"{name}: {scenario.summary}" for name, scenario in SCENARIOS.items()),
        "homegrown bench serve chat --url http://localhost:8000 --rate 2 --slo-ttft 500",
        "homegrown bench serve steady --random tiny --peer transformers --peer-python /path/to/venv/bin/python",
    ]
)


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is measured: one of the first three."""

    url: str = ""
    """A running server with OpenAI's API, such as http://localhost:8000."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(optional)")] = None
    """Start `homegrown serve` on this directory, and end it."""
    random: Annotated[str, tyro.conf.arg(metavar="SHAPE")] = ""
    """The same on a random LongCat-Flash model: quickstart (1.6M active parameters), tiny (21M) or small (132M); or on
    `sparse`: the quickstart's model as it is, n-gram tables, sparse attention and draft head, for 131,072 tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the random model's weights."""
    serve: Annotated[str, tyro.conf.arg(metavar="ARGUMENTS")] = ""
    """Further arguments of `homegrown serve`, in quotes behind an equals sign: --serve="--max-ttft 0 --invariant"."""
    model_name: str = ""
    """What requests call the model; by default what the server lists first."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(optional)")] = None
    """Directory with the served model's tokenizer.json, for prompts of an exact length; that of --model by default.
    Without one, prompts have so many common English words."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """How it is asked. The key, if one is needed, stands in the environment as HOMEGROWN_API_KEY."""

    api: Literal["completions", "chat"] = "completions"
    """/v1/completions or /v1/chat/completions."""
    temperature: float = 0.0
    """0 is greedy."""
    ignore_eos: bool = True
    """Answers have the length that was asked for."""
    timeout: float = 600.0
    """Seconds after which a request has failed."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How it is measured."""

    slo_ttft: float = 0.0
    """Goodput counts answers whose first token came within so many milliseconds; 0 sets no bound."""
    slo_tpot: float = 0.0
    """And whose tokens behind it took at most so many each; 0 sets no bound."""
    peer: Literal["none", "transformers"] = "none"
    """Measure `transformers serve` and static batches of 8 of its `generate` too, turn by turn, on the same model."""
    peer_python: str = ""
    """Interpreter of an environment with `transformers[serving]`; this one by default."""
    overhead: bool = False
    """Not the load, but what HTTP and scheduling add to the engine's own time a token, and a step's time while
    thousands wait."""
    warmup: int = 2
    """Requests before it that do not count."""
    repetitions: int = 1
    """Rounds; in each, everything has one turn."""
    threads: int = 0
    """CPU threads of each server that is started; 0 takes all usable cores."""
    device: str = "auto"
    """What the server runs on: `auto` takes the accelerator PyTorch finds, else the CPU."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """The JSON file; by default a dated one in `benchmarks/`."""


@dataclass(frozen=True, kw_only=True)
class ServeBench:
    """Arguments of `homegrown bench serve`."""

    scenario: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SCENARIO")] = DEFAULT
    """One of those above; it comes first."""
    server: Server = field(default_factory=Server)
    load: Load = field(default_factory=Load)
    request: Request = field(default_factory=Request)
    measuring: Measuring = field(default_factory=Measuring)


def serve(argv: list[str]) -> int:
    """Run the benchmark."""
    arguments = arguments_of(argv)
    measuring = arguments.measuring
    devices.set_threads(measuring.threads)
    plan = plan_of(arguments)
    plan.check()
    device = devices.pick(measuring.device)
    with bar(turns(plan)) as tick:
        record = run_serve(plan, device, ["bench", "serve", *argv], tick)
    name = str(record["scenario"])
    out = measuring.out or default_path("serve", f"{name}-{plan.random}" if plan.random else name)
    write(record, out)
    for table in tables(record):
        console.print(table)
    print(f"{summary(record)}\nrecord: {out}")
    return 0


def arguments_of(argv: Sequence[str]) -> ServeBench:
    """Read the arguments; the scenario's load is what flags change.

    Raises:
        UsageError: there is no such scenario, or it does not come first.
        SystemExit: after help, or a mistake that was explained.
    """
    name = argv[0] if argv and not argv[0].startswith("-") else DEFAULT
    if name not in SCENARIOS:
        raise UsageError(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    scenario = SCENARIOS[name]
    default = ServeBench(scenario=name, load=scenario.load, request=Request(api=scenario.api))
    arguments = parse(tyro.conf.OmitArgPrefixes[ServeBench], argv, "bench serve", default=default, about=_ABOUT)
    if arguments.scenario != name:
        raise UsageError(f"the scenario comes first, as in `homegrown bench serve {arguments.scenario} --url ...`")
    return arguments


def plan_of(arguments: ServeBench) -> ServePlan:
    """What is to be measured."""
    server, request, measuring = arguments.server, arguments.request, arguments.measuring
    return ServePlan(
        scenario=arguments.scenario,
        load=arguments.load,
        asking=Asking(
            api=request.api, temperature=request.temperature, ignore_eos=request.ignore_eos, timeout_s=request.timeout
        ),
        slo=Slo(measuring.slo_ttft, measuring.slo_tpot),
        url=server.url,
        model=server.model,
        random=server.random,
        dtype=getattr(torch, server.dtype),
        model_name=server.model_name,
        key=os.environ.get(KEY, "").partition(",")[0],
        tokenizer=server.tokenizer,
        serve=("--device", measuring.device, *shlex.split(server.serve)) if not server.url else (),
        peer=measuring.peer != "none",
        peer_python=measuring.peer_python or sys.executable,
        overhead=measuring.overhead,
        warmup=measuring.warmup,
        repetitions=measuring.repetitions,
        threads=torch.get_num_threads(),
    )
