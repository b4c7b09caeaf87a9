"""`homegrown plan serve`: pools for serving a model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from homegrown.config import ConfigError, UsageError, read_toml
from homegrown.plan.catalogue import Catalogue, plain
from homegrown.plan.facts import Chip, Cluster, Shape
from homegrown.plan.serving.setup import Dtype, Precision, Requests, Speculation, Traffic
from homegrown.plan.shapes import preset_shape, preset_shape_names

HIERARCHICAL = (1024, 262_144, 4)
"""Pages whose keys are scored, tokens from which on, first indexers that score all (arXiv 2608.01662 section 3.3)."""


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """Plan serving: layouts of a prefill and a decode pool, devices of each, tokens/s, times to the first and to each
    further token, cost of a million tokens, longest context; each with an 80 % interval.

    `homegrown plan serve --model longcat-2.0 --cluster hgx-h200 --input 4000 --output 800 --hit-rate 0.56 --ttft 2s
    --tpot 50ms --rate 100/s`"""

    model: str = "longcat-2.0"
    """A preset of this project, or a published model."""
    cluster: str = "hgx-h200"
    """Where it runs, as the catalogue names it."""
    input: str = "4000"
    """Tokens of a prompt."""
    output: str = "800"
    """Tokens of an answer."""
    mix: tuple[str, ...] = ()
    """Several kinds of requests instead, as PROMPT/ANSWER:SHARE:HIT-RATE: `--mix 4000/800:0.7 128K/2000:0.3:0.9`."""
    hit_rate: float = 0.0
    """Share of the prompts' tokens whose keys are found in a cache."""
    steady: bool = False
    """Equal requests that never stop coming, as in benchmarks, not live traffic."""
    ttft: str = ""
    """Time to the first token at most, as 2s."""
    tpot: str = ""
    """Time of each further token at most, as 50ms."""
    rate: str = ""
    """Requests that arrive, as 100/s or 40M/day; by default what the best decode instance carries."""
    devices: int = 0
    """Devices of both pools together, instead of a rate."""
    weights: Literal["", "bf16", "fp8", "int8", "fp4"] = ""
    """Number format of weights; by default fp8 where the chip has it, else int8, else bf16."""
    experts: Literal["", "bf16", "fp8", "int8", "fp4"] = ""
    """Of experts' weights; by default that of the others."""
    keys: Literal["bf16", "fp8", "int8"] = "bf16"
    """Of cached keys and values."""
    draft_steps: int = 0
    """Tokens that the draft head guesses in each step."""
    acceptance: float = 0.8
    """Probability that a guess is right if those before it are."""
    hierarchical: bool = False
    """Hierarchical indexing of prompts of 256K tokens and more."""
    zero_aware: bool = True
    """Tokens of zero-computation experts stay where they are."""
    overlap: bool = True
    """Traffic of experts hides behind computation."""
    memory_share: float = 0.9
    """Of a device's memory, for weights and keys."""
    price: float = 0.0
    """Dollars of a device-hour; by default the chip's rental."""
    setup: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Do not search: figures of the deployment that this TOML file describes (tables traffic, prefill, decode,
    precision, speculation)."""
    facts: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Chips, clusters and models of one's own, over the package's."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write everything as JSON."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the sweep (throughput against latency) as CSV."""
    html: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a page with plots."""


def run(argv: list[str]) -> int:
    """Plan and print."""
    from homegrown.cli.common import parse

    arguments = parse(ServeArguments, argv, "plan serve")
    catalogue = Catalogue.load(arguments.facts)
    cluster = catalogue.cluster(arguments.cluster)
    shape = find_shape(arguments.model, catalogue)
    command = shlex.join(["homegrown", "plan", "serve", *argv])
    if arguments.setup is not None:
        return _given(arguments.setup, shape, cluster, arguments)
    return _planned(arguments, shape, cluster, command)


def _planned(arguments: ServeArguments, shape: Shape, cluster: Cluster, command: str) -> int:
    from rich.console import Console

    from homegrown.plan.serving.files import write_csv, write_json
    from homegrown.plan.serving.page import write_page
    from homegrown.plan.serving.plan import Targets, serve_plan
    from homegrown.plan.serving.reading import parse_rate
    from homegrown.plan.serving.search import Served
    from homegrown.plan.serving.text import plan_tables
    from homegrown.plan.units import TIME

    served = Served(
        shape=with_pages(shape) if arguments.hierarchical else shape,
        cluster=cluster,
        traffic=traffic_of(arguments),
        precision=precision_of(arguments, cluster.chip),
        speculation=speculation_of(arguments, shape),
        memory_share=arguments.memory_share,
        zero_aware=arguments.zero_aware,
        overlap=arguments.overlap,
    )
    targets = Targets(
        ttft=TIME(arguments.ttft, "--ttft") if arguments.ttft else 0.0,
        tpot=TIME(arguments.tpot, "--tpot") if arguments.tpot else 0.0,
        rate=parse_rate(arguments.rate) if arguments.rate else 0.0,
        devices=arguments.devices,
        usd_hour=arguments.price,
    )
    plan = serve_plan(served, targets, command=command)
    Console().print(plan_tables(plan))
    for path, write in ((arguments.json, write_json), (arguments.csv, write_csv), (arguments.html, write_page)):
        if path is not None:
            write(plan, path)
            print(f"written: {path}")
    return 0


def _given(path: Path, shape: Shape, cluster: Cluster, arguments: ServeArguments) -> int:
    from rich.console import Console

    from homegrown.plan.quantity import intervals
    from homegrown.plan.serving.reading import read_setup
    from homegrown.plan.serving.replay import serving_replay
    from homegrown.plan.serving.text import figure_table

    unused = [flag for flag in ("json", "csv", "html") if getattr(arguments, flag) is not None]
    if unused:
        raise UsageError(f"--{unused[0]}: written for plans that are searched, not with --setup")
    setup = read_setup(read_toml(path), path.name)
    found = intervals(serving_replay(shape, cluster, setup))
    Console().print(figure_table(found, f"{shape.title} on {cluster.title}"))
    return 0


def find_shape(name: str, catalogue: Catalogue) -> Shape:
    """The shape of a preset, or of a published model.

    Raises:
        ConfigError: there is neither.
    """
    for preset in preset_shape_names():
        if plain(preset) == plain(name):
            return preset_shape(preset)
    try:
        return catalogue.shape(name)
    except ConfigError as error:
        raise ConfigError(f"{error}; and this project's own: {', '.join(preset_shape_names())}") from None


def with_pages(shape: Shape) -> Shape:
    """The shape with hierarchical indexing.

    Raises:
        ConfigError: it has no indexer.
    """
    if not any(group.attention.index_heads for group in shape.layers):
        raise ConfigError(f"--hierarchical: {shape.title} has no indexer")
    pages, threshold, skip = HIERARCHICAL
    groups = tuple(
        replace(
            group,
            attention=replace(group.attention, index_pages=pages, index_threshold=threshold, index_skip=skip),
        )
        for group in shape.layers
    )
    return replace(shape, layers=groups)


def traffic_of(arguments: ServeArguments) -> Traffic:
    """The mix of requests."""
    from homegrown.plan.serving.reading import parse_mix
    from homegrown.plan.units import context

    if arguments.mix:
        return Traffic(mix=parse_mix(arguments.mix, arguments.hit_rate), live=not arguments.steady)
    prompt, answer = context(arguments.input, "--input"), context(arguments.output, "--output")
    kind = Requests(input=float(prompt), output=float(answer), hit_rate=arguments.hit_rate)
    return Traffic(mix=(kind,), live=not arguments.steady)


def precision_of(arguments: ServeArguments, chip: Chip) -> Precision:
    """Number formats: the smallest common one that the chip computes in, unless told."""
    eight: Dtype = "fp8" if "fp8" in chip.peak else "int8" if "int8" in chip.peak else "bf16"
    weights: Dtype = arguments.weights or eight
    sent: Dtype = weights if weights in ("fp8", "int8") else "bf16"
    return Precision(
        weights=weights,
        experts=arguments.experts or None,
        keys=arguments.keys,
        dispatch=sent,
        index=eight,
    )


def speculation_of(arguments: ServeArguments, shape: Shape) -> Speculation:
    """Guesses of the draft head.

    Raises:
        ConfigError: the model has none.
    """
    if arguments.draft_steps and shape.draft is None:
        raise ConfigError(f"--draft-steps {arguments.draft_steps}: {shape.title} has no draft head")
    if not arguments.draft_steps:
        return Speculation()
    return Speculation(steps=arguments.draft_steps, acceptance=arguments.acceptance)
