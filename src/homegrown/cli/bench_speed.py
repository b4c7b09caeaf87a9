"""`homegrown bench prefill`, `decode`, `kernels` and `load`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
import tyro

from homegrown import device as devices
from homegrown.bench.record import default_path, write
from homegrown.bench.speed.decode import DecodePlan, count_decode, run_decode
from homegrown.bench.speed.kernels import KernelPlan, count_kernels, run_kernels
from homegrown.bench.speed.loading import LoadPlan, count_load, run_load
from homegrown.bench.speed.long import count_long, run_long
from homegrown.bench.speed.models import Precision
from homegrown.bench.speed.prefill import PrefillPlan, count_prefill, run_prefill
from homegrown.bench.speed.record import SpeedRecord
from homegrown.bench.speed.show import summary, table
from homegrown.cli.bench_compare import Against, judge_against
from homegrown.cli.common import bar, console, parse
from homegrown.config import UsageError

PlainShape = Literal["quickstart", "tiny", "small"]
AnyShape = Literal["quickstart", "tiny", "small", "sparse"]
Directory = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(optional)")]
LONG = (8192, 32768, 131_072)
"""Lengths of `--long`."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it runs and where the result goes."""

    threads: int = 0
    """CPU threads; 0 takes all usable cores."""
    device: str = "auto"
    """`auto` takes the accelerator PyTorch finds, else the CPU."""
    seed: int = 0
    """Seeds weights, tokens and keys."""
    out: Path | None = None
    """The JSON file; by default a dated one in `benchmarks/`."""
    against: Against = ""
    """Compare with an earlier record afterwards: a file, or `last` for the newest in `benchmarks/` of the same kind,
    shape and hardware. The exit status is 1 if something became slower beyond the noise (`homegrown bench compare`)."""


@dataclass(frozen=True, kw_only=True)
class PrefillBench(Machine):
    """Measure how fast prompts are read: from nothing to the logits behind the last token, as `homegrown generate` does
    it, in float32 and bfloat16; and `transformers` with the same weights, which must give the same logits first.

    The floor is what the machine could do: the FLOPs that the prompt needs over the matrix-multiply peak, measured turn
    by turn in the same run. With --long, one prompt of 128K tokens on a model with sparse attention (minutes): what a
    token costs at 8K, 32K and 128K, what part of it choosing keys takes, and memory."""

    shape: AnyShape = "tiny"
    """A random model: `quickstart` (3.4M parameters, 1.6M active), `tiny` (68M, 21M), `small` (355M, 132M), all plain
    LongCat-Flash; `sparse`: the quickstart's as it is, n-gram tables and sparse attention included, without a peer."""
    model: Directory = None
    """A model's directory instead."""
    tokens: tuple[int, ...] = ()
    """Lengths of prompts; by default 512, 2,048 and 4,096, with --long 8,192, 32,768 and 131,072."""
    long: bool = False
    """One long prompt, the peer left out; `--shape sparse` unless --model names another."""
    precisions: tuple[Precision, ...] = ()
    """Of ours: float32, bfloat16, int8 weights; by default the first two, with --long bfloat16."""
    chunk: int = 512
    """Prompt tokens in one pass."""
    peer: bool = True
    """Measure `transformers` too."""
    compiled: bool = False
    """Measure its compiled modes too; compiling takes a minute or more each."""
    repetitions: int = 0
    """Measured rounds; in each, everything has one turn. 0 takes 3, with --long 1."""
    warmup: int = 1
    """Rounds before them that do not count."""


@dataclass(frozen=True, kw_only=True)
class DecodeBench(Machine):
    """Measure how fast answers are written: one token for each of several texts at a time, behind contexts of several
    lengths, in float32, bfloat16 and with int8 weights; and `transformers` on static batches with the same weights and
    the same keys, which must give the same logits first.

    The floor of a step is reading, once and at the measured bandwidth, the weights that it touches (of the experts
    those that the routers chose) and the keys it sees; or its FLOPs over the matrix-multiply peak if that takes longer.

    A trained model with a draft head (--model) also makes a text with and without speculation, and the share of
    accepted drafts is shown."""

    shape: AnyShape = "tiny"
    """A random model, as for `bench prefill`; `sparse` has sparse attention and no peer."""
    model: Directory = None
    """A model's directory instead."""
    batch: tuple[int, ...] = (1, 8, 32)
    """Texts at a time."""
    context: tuple[int, ...] = ()
    """Tokens before the new ones; by default 128 and 4,096, and 32,768 for `sparse`."""
    precisions: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
    """Of ours."""
    most_keys: int = 1 << 20
    """Leave out cases with more tokens of context than this, of all texts together."""
    peer: bool = True
    """Measure `transformers` too."""
    peer_keys: int = 4096
    """Leave the peer out of cases with more tokens of context than this: it takes minutes for them."""
    compiled: bool = False
    """Measure its compiled modes too; compiling takes a minute or more each."""
    prompt: str = "def read(path):\n"
    """Begins the text that a trained model makes with and without speculation."""
    steps: int = 8
    """Of a turn."""
    repetitions: int = 5
    """Measured rounds; in each, everything has one turn."""
    warmup: int = 1
    """Rounds before them that do not count."""


@dataclass(frozen=True, kw_only=True)
class KernelBench(Machine):
    """Measure every op that the model is made of, at the sizes of a shape: each of its implementations, forward and,
    where there is one, backward, against the op's floor: FLOPs over the matrix-multiply peak, or bytes over the read
    bandwidth.
    Implementations in use are marked with a star."""

    shape: AnyShape = "tiny"
    """Whose sizes, as for `bench prefill`."""
    tokens: int = 512
    """Of the one row that each op is given; 1 is a decoding step."""
    ops: tuple[str, ...] = ()
    """Only these."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Of the inputs."""
    repetitions: int = 5
    """Measured rounds; in each, everything has one turn."""
    warmup: int = 1
    """Rounds before them that do not count."""


@dataclass(frozen=True, kw_only=True)
class LoadBench(Machine):
    """Measure what starting costs: importing the package and `homegrown --help`, against plain Python; and loading a
    checkpoint, against mapping its files into memory and reading every byte once, from memory and from disk. Every
    measurement is a process of its own; peak memory is shown beside the weights' size. CPU only."""

    shape: AnyShape = "tiny"
    """A random model that is written for this, as for `bench prefill`."""
    model: Directory = None
    """A model's directory instead."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the random model's weights."""
    peer: bool = True
    """Load it with `transformers` too."""
    cold: bool = True
    """Also with the files put out of the system's memory before each load, where it obeys."""
    repetitions: int = 5
    """Measured rounds; in each, everything has one turn."""
    warmup: int = 1
    """Rounds before them that do not count."""


Bench = TypeVar("Bench", PrefillBench, DecodeBench, KernelBench, LoadBench)


def prefill(argv: list[str]) -> int:
    """`homegrown bench prefill`."""
    arguments = _parse(PrefillBench, argv, "bench prefill")
    long = arguments.long
    plan = PrefillPlan(
        shape="sparse" if long and arguments.model is None else arguments.shape,
        model=arguments.model,
        tokens=arguments.tokens or (LONG if long else PrefillPlan.tokens),
        precisions=arguments.precisions or (("bfloat16",) if long else PrefillPlan.precisions),
        chunk=arguments.chunk,
        peer=arguments.peer and arguments.shape != "sparse" and not long,
        compiled=arguments.compiled,
        repetitions=arguments.repetitions or (1 if long else PrefillPlan.repetitions),
        warmup=arguments.warmup,
        seed=arguments.seed,
    )
    _refuse(min(plan.tokens), "tokens")
    _refuse(plan.chunk, "chunk")
    device, keeps = _prepare(arguments)
    run, number = (run_long, count_long(plan)) if long else (run_prefill, count_prefill(plan))
    with bar(number) as tick:
        record = run(plan, device, ["bench", "prefill", *argv], tick, keeps)
    return _finish(record, arguments)


def decode(argv: list[str]) -> int:
    """`homegrown bench decode`."""
    arguments = _parse(DecodeBench, argv, "bench decode")
    sparse = arguments.shape == "sparse" and arguments.model is None
    plan = DecodePlan(
        shape=arguments.shape,
        model=arguments.model,
        batches=arguments.batch,
        contexts=arguments.context or ((128, 4096, 32768) if sparse else DecodePlan.contexts),
        most_keys=arguments.most_keys,
        precisions=arguments.precisions,
        peer=arguments.peer and not sparse,
        compiled=arguments.compiled,
        peer_keys=arguments.peer_keys,
        prompt=arguments.prompt,
        steps=arguments.steps,
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        seed=arguments.seed,
    )
    for name, value in (("batch", min(plan.batches)), ("context", min(plan.contexts)), ("steps", plan.steps)):
        _refuse(value, name)
    if not plan.cases:
        raise UsageError(f"--most-keys {plan.most_keys} leaves no case: the smallest has more tokens of context")
    device, keeps = _prepare(arguments)
    with bar(count_decode(plan)) as tick:
        record = run_decode(plan, device, ["bench", "decode", *argv], tick, keeps)
    return _finish(record, arguments)


def kernels(argv: list[str]) -> int:
    """`homegrown bench kernels`."""
    arguments = _parse(KernelBench, argv, "bench kernels")
    plan = KernelPlan(
        shape=arguments.shape,
        tokens=arguments.tokens,
        ops=arguments.ops,
        dtypes=tuple(getattr(torch, name) for name in arguments.dtypes),
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
    )
    _refuse(plan.tokens, "tokens")
    device, keeps = _prepare(arguments)
    with bar(count_kernels(plan)) as tick:
        record = run_kernels(plan, device, ["bench", "kernels", *argv], tick, keeps)
    return _finish(record, arguments)


def load(argv: list[str]) -> int:
    """`homegrown bench load`."""
    arguments = _parse(LoadBench, argv, "bench load")
    plan = LoadPlan(
        shape=arguments.shape,
        model=arguments.model,
        dtype=getattr(torch, arguments.dtype),
        peer=arguments.peer and arguments.shape != "sparse",
        cold=arguments.cold,
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        seed=arguments.seed,
    )
    devices.set_threads(arguments.threads)
    with bar(count_load(plan)) as tick:
        record = run_load(plan, ["bench", "load", *argv], tick)
    return _finish(record, arguments)


def _parse(kind: type[Bench], argv: Sequence[str], command: str) -> Bench:
    arguments = parse(kind, argv, command)
    if arguments.repetitions < 0 or arguments.warmup < 0 or (arguments.repetitions == 0 and kind is not PrefillBench):
        raise UsageError(
            f"{arguments.repetitions} repetitions after {arguments.warmup} rounds of warm-up: at least one repetition "
            "is needed, and no fewer than zero rounds"
        )
    return arguments


def _prepare(machine: Machine) -> tuple[torch.device, bool]:
    """The device, and whether freed memory is kept as in training."""
    keeps = devices.keep_host_memory()
    devices.set_threads(machine.threads)
    return devices.pick(machine.device), keeps


def _refuse(value: int, flag: str) -> None:
    if value < 1:
        raise UsageError(f"--{flag} {value}: must be at least 1")


def _finish(record: SpeedRecord, machine: Machine) -> int:
    """Write, show, and compare if that was asked for."""
    out = machine.out or default_path(record.kind, record.shape["name"])
    write(record, out)
    console.print(table(record))
    print(f"{summary(record)}\nrecord: {out}")
    return judge_against(machine.against, out)
