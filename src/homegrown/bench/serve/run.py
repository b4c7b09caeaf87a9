"""The benchmark: servers are started, put under load in turn, and what came of it becomes a record."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch

from homegrown.bench.peer import PEER
from homegrown.bench.record import origin
from homegrown.bench.serve.child import homegrown_command, running
from homegrown.bench.serve.compare import by_new_tokens, by_turn, pace, ttft_line
from homegrown.bench.serve.contest import Contestant, Served, Static, compete, pooled, ratios, results
from homegrown.bench.serve.drive import requests
from homegrown.bench.serve.figures import Slo, figures, series
from homegrown.bench.serve.load import Load
from homegrown.bench.serve.peer import StaticBatches, refuse_missing_server, server_command
from homegrown.bench.serve.standin import write_standin
from homegrown.bench.serve.target import Asking
from homegrown.bench.serve.words import Words
from homegrown.config import UsageError
from homegrown.config.atomic import write_bytes

SCHEMA = 1
OURS = "homegrown serve"


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """What is measured.

    Attributes:
        scenario: name of the load, for the record.
        load: the load.
        asking: how requests are worded.
        slo: what goodput counts.
        url: of a running server; empty: one is started on `model`, or on a random model of the shape `random`.
        model, random: see above.
        dtype: of a random model's weights.
        model_name: what requests call the model; empty: what the server lists first.
        key: the server's.
        tokenizer: directory with the served model's tokenizer; by default `model`.
        serve: further arguments of `homegrown serve`.
        peer: measure `transformers` too.
        peer_python: its interpreter.
        overhead: measure what HTTP and scheduling add to the engine's own work; instead of the load.
        warmup: requests to each server before it is measured.
        repetitions: rounds.
        threads: of every contestant that is started.
    """

    scenario: str
    load: Load
    asking: Asking = field(default_factory=Asking)
    slo: Slo = field(default_factory=Slo)
    url: str = ""
    model: Path | None = None
    random: str = ""
    dtype: torch.dtype = torch.float32
    model_name: str = ""
    key: str = ""
    tokenizer: Path | None = None
    serve: tuple[str, ...] = ()
    peer: bool = False
    peer_python: str = ""
    overhead: bool = False
    warmup: int = 2
    repetitions: int = 1
    threads: int = 1

    def check(self) -> None:
        """Raise `UsageError` if this cannot be measured."""
        self.load.check()
        if sum(map(bool, (self.url, self.model, self.random))) != 1:
            raise UsageError(
                "name one server: --url URL of a running one, --model DIR to start one on a model, or --random tiny "
                "to start one on a random model"
            )
        if self.url and (self.peer or self.overhead or self.serve):
            raise UsageError("--peer, --overhead and --serve start servers themselves: give --model or --random")
        if self.warmup < 0 or self.repetitions < 1:
            raise UsageError(
                f"--repetitions {self.repetitions} after --warmup {self.warmup}: at least one repetition is needed, "
                "and no fewer than no warm-up requests"
            )
        if self.peer and (self.load.lengths("turns").most > 1 or self.asking.api == "chat"):
            raise UsageError(
                "--peer: static batches continue plain texts, once; choose a load with --turns 1 and --api completions"
            )
        if self.peer and self.load.long:
            raise UsageError("--peer: a load that goes on until a long prompt is answered differs for each contestant")


def write(record: dict[str, Any], path: Path) -> None:
    """Write as indented JSON, atomically."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def turns(plan: ServePlan) -> int:
    """How many ticks a progress bar will get; for a load without end, fewer than will come."""
    if plan.overhead:
        return 2 * (plan.repetitions + 1) + 1
    each = requests(plan.load, Words.common())
    served = plan.repetitions * each + plan.warmup
    static = plan.repetitions + (plan.warmup > 0)
    return served * (1 + plan.peer) + static * plan.peer


def run_serve(
    plan: ServePlan, device: torch.device, argv: Sequence[str], tick: Callable[[str], None] = lambda label: None
) -> dict[str, Any]:
    """Run a benchmark.

    Args:
        plan: what is measured.
        device: what the servers run on, for the record.
        argv: the command's arguments, for the record.
        tick: told the contestant's name whenever a request has ended.

    Returns:
        The record: figures, what they are made of, and where they come from.

    Raises:
        UserError: a server or the peer cannot be started, or answers nothing.
        UsageError: the plan contradicts itself.
    """
    plan.check()
    if plan.peer:
        refuse_missing_server(plan.peer_python)
    with ExitStack() as stack:
        folder = stack.enter_context(_model(plan))
        words = _words(plan, folder)
        began, busy = datetime.now(UTC), os.getloadavg()[0]
        body = _overhead(plan, folder, words, tick) if plan.overhead else _contest(plan, folder, words, tick)
    head = {
        "kind": "serve",
        "schema": SCHEMA,
        "date": f"{began:%Y%m%d-%H%M%S}",
        "scenario": "overhead" if plan.overhead else plan.scenario,
        "origin": origin(device, argv, False, [PEER] if plan.peer else []),
        "load_average_before": busy,
    }
    return head | body


def _contest(plan: ServePlan, folder: Path | None, words: Words, tick: Callable[[str], None]) -> dict[str, Any]:
    with _contestants(plan, folder) as contestants:
        order = compete(contestants, plan.load, words, plan.warmup, plan.repetitions, tick)
        found = [results(contestant, plan.slo) for contestant in contestants]
        main = contestants[0]
        outcomes = pooled(main)
        growing = plan.load.lengths("turns").most > 1
        return {
            **_settings(plan, words, main),
            **{name: value for name, value in found[0].items() if name not in ("name", "rounds")},
            **series(outcomes),
            "contestants": found,
            "ratios": ratios(found),
            "order": order,
            "groups": _groups(main, plan.slo),
            "turns_table": by_turn(outcomes) if growing else [],
            "prefix_table": [] if growing else by_new_tokens(outcomes),
            "prefix_line": None if growing else ttft_line(outcomes),
            "pace": [pace(run.outcomes) for run in main.runs] if plan.load.long else [],
        }


def _overhead(plan: ServePlan, folder: Path | None, words: Words, tick: Callable[[str], None]) -> dict[str, Any]:
    from homegrown.bench.serve.overhead import ANSWER, PROMPT, measure_overhead

    if folder is None:
        raise UsageError("--overhead: needs --model or --random")
    arguments = ["--threads", str(plan.threads), *plan.serve]
    with running(homegrown_command(folder, arguments), "/ready") as url:
        found = measure_overhead(folder, url, words, plan.repetitions, tick)
    return {"prompt_tokens": PROMPT, "completion_tokens": ANSWER, "overhead": found}


def _settings(plan: ServePlan, words: Words, main: Contestant) -> dict[str, Any]:
    """What was asked for, under the names of the usual tools where they have one."""
    load = plan.load
    return {
        "endpoint_type": "openai" if plan.asking.api == "completions" else "openai-chat",
        "backend": main.name,
        "label": main.name,
        "model_id": main.model if isinstance(main, Served) else "",
        "tokenizer_id": words.source,
        "num_prompts": load.requests,
        "request_rate": load.rate or "inf",
        "burstiness": load.burstiness,
        "max_concurrency": load.concurrency or None,
        "goodput_slo_ms": plan.slo.bounds,
        "load": asdict(load),
        "asking": asdict(plan.asking),
        "exact_lengths": words.exact,
        "serve_arguments": list(plan.serve),
        "warmup": plan.warmup,
        "repetitions": plan.repetitions,
        "threads": plan.threads,
    }


def _groups(contestant: Contestant, slo: Slo) -> dict[str, dict[str, Any]]:
    """Figures of each group, where there are several; rates are those over the whole duration."""
    duration = sum(run.duration for run in contestant.runs)
    outcomes = [outcome for run in contestant.runs for outcome in run.outcomes]
    names = sorted({outcome.group for outcome in outcomes})
    if len(names) < 2:
        return {}
    return {
        name or "others": figures([outcome for outcome in outcomes if outcome.group == name], duration, slo)
        for name in names
    }


@contextmanager
def _model(plan: ServePlan) -> Iterator[Path | None]:
    """The directory that is served, if this machine does it."""
    if not plan.random:
        yield plan.model
        return
    with tempfile.TemporaryDirectory(prefix="homegrown-bench-") as parent:
        yield write_standin(plan.random, Path(parent) / f"random-{plan.random}", plan.dtype)


def _words(plan: ServePlan, folder: Path | None) -> Words:
    source = plan.tokenizer or folder
    return Words.of(source) if source else Words.common()


@contextmanager
def _contestants(plan: ServePlan, folder: Path | None) -> Iterator[list[Contestant]]:
    """The server, and the peer's two if they are wanted; those that are started here end with the block."""
    with ExitStack() as stack:
        if folder is None:
            yield [Served(plan.url, plan.url, plan.asking, plan.model_name, plan.key)]
            return
        command = homegrown_command(folder, ["--threads", str(plan.threads), *plan.serve])
        url = stack.enter_context(running(command, "/ready"))
        contestants: list[Contestant] = [Served(OURS, url, plan.asking, plan.model_name, plan.key)]
        if plan.peer:
            contestants += _peers(plan, folder, stack)
        yield contestants


def _peers(plan: ServePlan, folder: Path, stack: ExitStack) -> list[Contestant]:
    command, environment = server_command(plan.peer_python, folder, plan.threads)
    url = stack.enter_context(running(command, "/health", environment))
    asking = replace(plan.asking, strict=True)
    batches = StaticBatches(plan.peer_python, folder, plan.threads)
    stack.callback(batches.close)
    return [Served(f"{PEER} serve", url, asking, str(folder)), Static(f"{PEER} static batches", batches)]
