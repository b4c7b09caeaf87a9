"""`homegrown plan` itself: a training run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from homegrown.cli.plan import SUBCOMMANDS
from homegrown.config import UsageError

if TYPE_CHECKING:
    from homegrown.plan.course import Course
    from homegrown.plan.facts import Shape
    from homegrown.plan.plan import Wishes
    from homegrown.plan.results import Plan

EXAMPLE = "homegrown plan --model longcat-2.0 --cluster atlas-950 --devices 50000 --tokens 35T"
SCALE_WORLDS = 16
"""Worlds from which the intervals of other numbers of devices are taken: bands of a plot."""
ABOUT = f"""Plan a training run: the fastest layouts that fit into memory, and what the run comes to.

    {EXAMPLE}

searches all layouts, shows where the time of a step goes and what fills the memory, and adds failures, days, energy and
cost. Every figure has an 80 % interval, from how well the figures behind it are known. Names of models, clusters and
chips: `homegrown plan models`, `plan clusters`, `plan chips`. Your own go into a folder: `--data DIR`.

A size that you give is kept, the others are searched:

    homegrown plan --model deepseek-v3 --cluster hgx-h800 --devices 2048 --tokens 14.8T --precision fp8 --pp 16 --ep 64

Also: {{}}."""


@dataclass(frozen=True, kw_only=True)
class LayoutFlags:
    """Sizes of a layout; 0 leaves one to the search."""

    tp: int = 0
    """Tensor parallelism: heads, feed-forward widths and the vocabulary are cut."""
    cp: int = 0
    """Context parallelism: sequences are cut."""
    pp: int = 0
    """Pipeline parallelism: layers are dealt out."""
    dp: int = 0
    """Data parallelism: replicas, each with sequences of its own."""
    ep: int = 0
    """Expert parallelism: experts are dealt out over devices of a pipeline stage."""
    etp: int = 0
    """Devices that each expert is cut over."""
    embp: int = 0
    """Devices of a stage that share the n-gram tables."""
    parts: int = 0
    """Pipeline parts of a device (virtual stages)."""
    micro_batch: int = 0
    """Sequences of a micro-batch."""
    schedule: Literal["any", "1f1b", "interleaved", "zero-bubble", "dual"] = "any"
    """Of the pipeline; `dual` is DualPipe, with two copies of the weights."""
    recompute: Literal["any", "none", "selective", "full"] = "any"
    """What the backward pass computes again: nothing, attention's inside and other cheap things, everything."""


@dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """Flags of `homegrown plan`."""

    model: str = ""
    """A model's name, or a file: a TOML config of a model or run, a config.json of the family."""
    cluster: str = ""
    """A cluster's name."""
    devices: int = 0
    """Devices that the run keeps for itself. A layout uses as many of them as it can, the rest are spares."""
    tokens: str = ""
    """Tokens of the whole run, as in 35T. LongCat-2.0 has them in three stages of growing sequences."""
    stages: str = ""
    """In place of --tokens: sequence and tokens of each stage, as in 8K:33T,128K:1.5T,1M:0.5T."""
    sequence: str = ""
    """All tokens in sequences of this length, as in 8K."""
    batch: str = ""
    """Tokens of a step, as in 64M; by default from the compute of the run, by a published rule."""
    batch_slack: float = 0.05
    """Share by which a layout's batch may differ, so that odd numbers of devices can be used; 0 keeps it exactly."""
    layout: Annotated[LayoutFlags, tyro.conf.arg(name="")] = LayoutFlags()
    precision: Literal["bf16", "fp8", "fp4", "int8", "fp32"] = "bf16"
    """Of the matrix products."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for hidden matrices and AdamW for the rest, as `homegrown train` does, or AdamW for all."""
    offload: bool = False
    """Keep the optimizer's state in the hosts' memory."""
    balanced: bool = False
    """Experts get equally many tokens, as benchmarks force them to."""
    comm_share: float = 0.0
    """Share of a device that does traffic only, as in 0.15."""
    memory: str = ""
    """Bytes of a device that may be used, as in 60GB; all there are by default."""
    best: int = 5
    """Layouts that are shown of each stage."""
    worlds: int = 64
    """Ways in which uncertain figures are drawn for the intervals; 1 shows none."""
    data: Path | None = None
    """A folder with chips, clusters, models and prices of your own, over the package's."""
    json: Path | None = None
    """Write the plan to this file, in SI units."""
    csv: Path | None = None
    """Write all layouts that are shown to this file."""
    html: Path | None = None
    """Write a page with plots to this file, all in one."""


def run(argv: list[str]) -> int:
    """Search, show, write."""
    from homegrown.cli.common import parse

    flags = parse(PlanFlags, argv, "plan", about=ABOUT.format(_others()))
    check(flags, EXAMPLE)
    plan = made(flags, argv)
    show(plan, flags)
    return 0


def made(flags: PlanFlags, argv: Sequence[str]) -> Plan:
    """The plan that flags ask for.

    Raises:
        ConfigError: see `plan_training`; or a name or figure that is not understood.
    """
    from homegrown.cli.plan_common import patient_bar, shape_called
    from homegrown.plan.catalogue import Catalogue
    from homegrown.plan.plan import plan_training
    from homegrown.plan.scales import scales_of
    from homegrown.plan.upkeep import upkeep_of

    catalogue = Catalogue.load(flags.data)
    shape, cluster = shape_called(flags.model, catalogue), catalogue.cluster(flags.cluster)
    wished = wishes(flags)
    wished = replace(wished, how=replace(wished.how, upkeep=upkeep_of(catalogue.prices.site)))
    legs = course(flags, shape)
    with patient_bar() as tick:
        command = shlex.join(["homegrown", "plan", *argv])
        plan = plan_training(shape, cluster, flags.devices, legs, wished, tick=tick, command=command)
        if flags.html is None:
            return plan
        once = replace(wished, count=1, worlds=min(SCALE_WORLDS, wished.worlds))

        def again(devices: int) -> Plan:
            tick(f"the same on {devices:,} devices, for the page", 1.0)
            return plan_training(shape, cluster, devices, legs, once)

        return replace(plan, scales=scales_of(plan, again, cluster.largest))


def show(plan: Plan, flags: PlanFlags) -> None:
    """Print a plan, and write the files that were asked for."""
    from rich.console import Console

    from homegrown.plan.files import write_csv, write_json
    from homegrown.plan.text import show_plan

    Console().print(show_plan(plan))
    if flags.json:
        write_json(plan, flags.json)
    if flags.csv:
        write_csv(plan, flags.csv)
    if flags.html:
        from homegrown.plan.page import write_plan_page

        write_plan_page(plan, flags.html)
    for path in (flags.json, flags.csv, flags.html):
        if path:
            print(f"written: {path}")


def course(flags: PlanFlags, shape: Shape) -> Course:
    """Stages and tokens, from `--stages`, or from `--tokens` and `--sequence`."""
    from homegrown.plan.course import course_of, tokens_of, usual_course
    from homegrown.plan.units import context

    if flags.stages:
        return course_of(flags.stages)
    sequence = context(flags.sequence, "--sequence") if flags.sequence else 0
    return usual_course(shape, tokens_of(flags.tokens, "--tokens"), sequence)


def wishes(flags: PlanFlags) -> Wishes:
    """The rest of the flags as the planner takes it."""
    from homegrown.plan.course import tokens_of
    from homegrown.plan.pins import Pins
    from homegrown.plan.plan import Wishes
    from homegrown.plan.units import MEMORY

    return Wishes(
        pins=Pins(
            **vars(flags.layout), precision=flags.precision, optimizer=flags.optimizer, offload=flags.offload,
            balanced=flags.balanced, comm_share=flags.comm_share,
        ),
        batch=tokens_of(flags.batch, "--batch") if flags.batch else 0.0,
        slack=flags.batch_slack,
        limit=MEMORY(flags.memory, "--memory") if flags.memory else 0.0,
        count=flags.best,
        worlds=flags.worlds,
    )  # fmt: skip


MOST_DEVICES = 100_000_000
"""More than all that were ever built: a slip of the finger."""


def check(flags: PlanFlags, example: str) -> None:
    """Refuse flags that say too little or too much; `example` shows how they are used.

    Raises:
        UsageError: a flag is missing, or two contradict each other.
    """
    if flags.devices > MOST_DEVICES:
        raise UsageError(f"--devices {flags.devices}: must be at most {MOST_DEVICES:,}")
    missing = [f"--{name}" for name in ("model", "cluster", "devices") if not getattr(flags, name)]
    if missing:
        raise UsageError(f"{' and '.join(missing)}: needed, as in `{example}`; --help explains them")
    given = bool(flags.tokens) + bool(flags.stages)
    if given != 1:
        raise UsageError(
            f"{'both' if given else 'neither'} --tokens {'and' if given else 'nor'} --stages: give one of them, as in "
            f"`{example}`"
        )
    if flags.stages and flags.sequence:
        raise UsageError("--sequence with --stages: the stages have their own sequences; leave one of them out")


def _others() -> str:
    return "; ".join(f"`homegrown plan {name}`, {one.summary}" for name, one in SUBCOMMANDS.items())
