"""The examination: each process its device, all of them the network, and a verdict over what all found."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import torch
import torch.distributed as dist

from homegrown import device as devices
from homegrown.bench.doctor.judge import judge
from homegrown.bench.doctor.kernels import check_kernels, count_kernels
from homegrown.bench.doctor.network import check_collectives, count_collectives
from homegrown.bench.doctor.report import CollectiveResult, Node, Report
from homegrown.bench.interleave import Tick
from homegrown.bench.record import Spread, origin
from homegrown.parallel.world import World


@dataclass(frozen=True)
class Plan:
    """How thoroughly to examine.

    Attributes:
        quick: for the record.
        dtypes: those whose matrix-multiply ceiling is measured.
        length: size of the kernels' inputs.
        runs: how often each kernel runs, all to the same bits.
        repetitions: measurements of each speed.
        seconds: how long one measurement of multiplication or memory takes.
        numbers: float32 numbers that each process sends to each other one when bandwidth is measured.
        timeout_s: seconds to wait for other processes in one call.
    """

    quick: bool
    dtypes: tuple[torch.dtype, ...]
    length: int
    runs: int
    repetitions: int
    seconds: float
    numbers: int
    timeout_s: float

    @classmethod
    def of(cls, quick: bool, timeout_s: float) -> Plan:
        """The self-test of a few seconds, or the thorough one."""
        if quick:
            dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
            return cls(True, dtypes, 48, 2, 3, 0.02, 1 << 16, timeout_s)
        return cls(False, (torch.float32, torch.bfloat16, torch.float16), 256, 5, 7, 0.3, 1 << 22, timeout_s)


def examine(world: World, plan: Plan, argv: Sequence[str] = (), tick: Tick = lambda label: None) -> Report:
    """Examine this process's device and, with the others, the network. All processes of the world must call it.

    Args:
        world: as `parallel.world.join` gave it.
        plan: how thoroughly.
        argv: the command's arguments, for the record.
        tick: told what comes next, `ticks(plan, world)` times.

    Returns:
        The findings of all processes, the same in each; those of this one alone if the others could not be reached.
    """
    own = _examine_alone(world, plan, argv, tick)
    nodes, failure = _gathered(own, world)
    return Report(kind="doctor", schema=1, quick=plan.quick, nodes=nodes, findings=judge(nodes, failure))


def ticks(plan: Plan, world: World) -> int:
    """How often `examine` calls its `tick`."""
    return len(plan.dtypes) + 1 + count_kernels() + count_collectives(world.size)


def _examine_alone(world: World, plan: Plan, argv: Sequence[str], tick: Tick) -> Node:
    multiply: dict[str, Spread] = {}
    unsupported: dict[str, str] = {}
    for dtype in plan.dtypes:
        name = str(dtype).removeprefix("torch.")
        tick(f"multiply {name}")
        try:
            peaks = [devices.measure_peak(world.device, dtype, plan.seconds) for _ in range(plan.repetitions)]
            multiply[name] = Spread.of(peaks)
        except devices.DeviceError as error:
            unsupported[name] = str(error)
    tick("memory")
    memory = [devices.measure_bandwidth(world.device, plan.seconds) for _ in range(plan.repetitions)]
    kernels = check_kernels(world.device, plan.length, plan.runs, tick)
    network: list[CollectiveResult] = []
    if world.size > 1:
        network = check_collectives(world, plan.numbers, plan.repetitions, plan.timeout_s, tick)
    return Node(
        rank=world.rank,
        host=socket.gethostname(),
        origin=origin(world.device, ["doctor", *argv], False, plugins()),
        multiply=multiply,
        unsupported=unsupported,
        bandwidth=Spread.of(memory),
        kernels=kernels,
        collectives=network,
    )


def plugins() -> list[str]:
    """Distributions that bring devices to PyTorch, by its entry point for them."""
    points = metadata.entry_points(group="torch.backends")
    return sorted({point.dist.name for point in points if point.dist is not None})


def _gathered(own: Node, world: World) -> tuple[list[Node], str]:
    """What every process found, or this one's alone and why."""
    if world.size == 1:
        return [own], ""
    nodes: list[Node | None] = [None] * world.size
    try:
        dist.all_gather_object(nodes, own)
    except RuntimeError as error:
        return [own], str(error).partition("\n")[0]
    return [node for node in nodes if node is not None], ""
