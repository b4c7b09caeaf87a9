"""A plan of serving: pools for traffic and latency targets, how many instances of each, figures with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.quantity import EXPECTED, Interval, World, intervals
from homegrown.plan.serving.capacity import capacity
from homegrown.plan.serving.cost import HOUR, MILLION
from homegrown.plan.serving.details import decode_split, memory_split, prefill_split, prompts
from homegrown.plan.serving.figures import require_formats, serving_figures
from homegrown.plan.serving.search import DecodePoint, PrefillPoint, Served, decode_points, front, prefill_points
from homegrown.plan.serving.setup import Pool, Setup
from homegrown.plan.serving.sizing import Sized, for_devices, for_rate

INSTANCE = 256
"""Devices of an instance at most."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is asked of a deployment.

    Attributes:
        ttft, tpot: seconds to the first token, and of each further one, at most; 0 sets no bound.
        rate: requests/s; 0 finds what `devices` carry. devices: of both pools together; 0 finds how many are needed.
            With neither, the smallest deployment that is balanced.
        usd_hour: of a device; 0 takes the chip's rental.
    """

    ttft: float = 0.0
    tpot: float = 0.0
    rate: float = 0.0
    devices: int = 0
    usd_hour: float = 0.0

    def __post_init__(self) -> None:
        if self.rate and self.devices:
            raise ConfigError(f"--rate {self.rate:g}/s and --devices {self.devices}: give one, the other follows")
        if self.devices < 0 or self.rate < 0:
            raise ConfigError(f"--devices {self.devices}, --rate {self.rate:g}: must be positive")


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """Pools and what they do.

    Attributes:
        setup: layouts of one instance of each pool, the batch, the share in use.
        prefill_instances, decode_instances: of each. rate: requests/s that they carry at their best guess.
        figures: those of `names.FIGURES`, with intervals.
        front: throughput against latency of decode layouts.
        decode_parts, prefill_parts: seconds of a decode step and of a full prefill chunk, by part.
        memory: bytes on a device, by component, of each pool; `keys` are those of a full batch.
        prompts: seconds of a prompt alone, by its length.
    """

    shape: Shape
    cluster: Cluster
    targets: Targets
    setup: Setup
    prefill_instances: int
    decode_instances: int
    rate: float
    figures: Mapping[str, Interval]
    front: tuple[DecodePoint, ...]
    decode_parts: Mapping[str, float]
    prefill_parts: Mapping[str, float]
    memory: Mapping[str, Mapping[str, float]]
    prompts: tuple[tuple[float, float], ...]
    command: str = ""

    @property
    def devices(self) -> int:
        """Of all instances."""
        return self.prefill_instances * self.prefill.devices + self.decode_instances * self.decode.devices

    @property
    def prefill(self) -> Pool:
        """Layout of a prefill instance."""
        return _there(self.setup.prefill)

    @property
    def decode(self) -> Pool:
        """Layout of a decode instance."""
        return _there(self.setup.decode)


def _there(pool: Pool | None) -> Pool:
    if pool is None:
        raise ConfigError("setup: a plan has a prefill and a decode pool")
    return pool


def serve_plan(served: Served, targets: Targets, worlds: int = 64, command: str = "") -> ServePlan:
    """Find pools for traffic and targets.

    Raises:
        ConfigError: a format that the chip lacks, a model that does not fit, targets that no layout keeps.
    """
    most = min(targets.devices or INSTANCE, INSTANCE)
    require_formats(served.cluster.machine(EXPECTED), served.precision, served.shape, served.cluster.chip.title)
    prefills = prefill_points(served, most, targets.ttft)
    decodes = decode_points(served, most, targets.tpot)
    _require(served, targets, prefills, decodes)
    missed, output = served.traffic.mean("missed"), served.traffic.mean("output")
    sized = (
        for_devices(targets.devices, missed, output, prefills, decodes)
        if targets.devices
        else for_rate(targets.rate, missed, output, prefills, decodes)
    )
    prefill, decode = sized.prefill, sized.decode
    setup = Setup(
        traffic=served.traffic,
        prefill=prefill.pool,
        decode=decode.pool,
        precision=served.precision,
        speculation=served.speculation,
        batch=decode.batch,
        use=prefill.use if served.traffic.live else 0.0,
        ttft=targets.ttft,
        tpot=targets.tpot,
        usd_hour=targets.usd_hour,
    )
    return ServePlan(
        shape=served.shape,
        cluster=served.cluster,
        targets=targets,
        setup=setup,
        prefill_instances=sized.prefill_instances,
        decode_instances=sized.decode_instances,
        rate=sized.rate,
        figures=intervals(lambda world: _figures(served, setup, sized, world), worlds),
        front=tuple(front(served, most)),
        decode_parts=decode_split(served, decode.pool, decode.batch),
        prefill_parts=prefill_split(served, prefill.pool),
        memory={
            "prefill": memory_split(served, prefill.pool),
            "decode": memory_split(served, decode.pool, batch=decode.batch),
        },
        prompts=prompts(served, prefill.pool, _longest(served, prefill.pool)),
        command=command,
    )


def _require(
    served: Served, targets: Targets, prefills: Mapping[int, PrefillPoint], decodes: Mapping[int, DecodePoint]
) -> None:
    """Say what is missing where no layout is left.

    Raises:
        ConfigError: none is.
    """
    limit = min(targets.devices or INSTANCE, INSTANCE)
    for prefill, name, found, bound in ((True, "ttft", prefills, targets.ttft), (False, "tpot", decodes, targets.tpot)):
        if found:
            continue
        free: Mapping[int, PrefillPoint] | Mapping[int, DecodePoint]
        free = prefill_points(served, limit, 0.0) if prefill else decode_points(served, limit, 0.0)
        if not free:
            raise ConfigError(
                f"{served.shape.title} with {'its longest prompt' if prefill else 'one answer'} does not fit on "
                f"{limit} devices of {served.cluster.title} in {served.precision.weights}"
            )
        least = _least(served, limit, prefill=prefill)
        raise ConfigError(
            f"--{name} {bound:g}s: no layout is that fast; the fastest of those looked at takes {least:.3g} s for "
            f"{'a prompt alone' if prefill else 'a token of one answer alone'}"
        )


def _longest(served: Served, pool: Pool) -> float:
    """The longest prompt that a group's memory holds, and that the model was made for where that is known."""
    clock = served.clock
    held = capacity(clock.machine, clock.constants, served.shape, pool, served.precision).tokens
    return min(held, float(served.shape.context or held))


def _least(served: Served, limit: int, *, prefill: bool) -> float:
    if prefill:
        return min(point.ttft for point in prefill_points(served, limit, 0.0).values())
    return min(point.tpot for point in front(served, limit))


def _figures(served: Served, setup: Setup, sized: Sized, world: World) -> dict[str, float]:
    found = serving_figures(served.shape, served.cluster, setup, world)
    for name in ("input_tokens_per_s_unit", "output_tokens_per_s_unit"):
        del found[name]
    missed, output = served.traffic.mean("missed"), served.traffic.mean("output")
    prefill, decode = found["prefill_tokens_per_s_device"], found["decode_tokens_per_s_device"]
    first = sized.prefill_instances * sized.prefill.pool.devices
    second = sized.decode_instances * sized.decode.pool.devices
    found["requests_per_s"] = min(first * prefill / missed, second * decode / output)
    found["prefill_devices"] = sized.rate * missed / prefill
    found["decode_devices"] = sized.rate * output / decode
    found["devices"] = found["prefill_devices"] + found["decode_devices"]
    if "usd_per_million" in found:
        dollars = missed * found["usd_per_million_missed"] + output * found["usd_per_million"]
        found["usd_per_request"] = dollars / MILLION
        found["usd_hour"] = found["usd_per_request"] * sized.rate * HOUR
    return found
