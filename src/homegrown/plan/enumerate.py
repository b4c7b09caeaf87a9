"""All ways to lay a model over devices that its sizes allow.

A layout is chosen in two halves. The *frame* says what a device computes of a micro-batch, and when: tensor, context
and pipeline sizes, pipeline parts, schedule, micro-batch. The *fold* lays experts and n-gram tables over the devices of
a pipeline stage, and gives data parallelism all the devices that are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, gcd
from typing import NamedTuple

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.layout import Layout, Recompute, Schedule
from homegrown.plan.pins import Limits, Pins, check_batch, check_devices, divisors

LEAST_TOKENS = 128
"""Tokens of a sequence that a device holds at least: rows of one tile of a matrix unit; fewer leave it idle."""
MICRO_BATCHES = (1, 2, 4, 8)
"""Sequences of a micro-batch that are tried."""
BATCH_SLACK = 0.05
"""Share by which a layout's batch may differ from the one asked for, so that odd numbers of devices can be used."""
RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
"""From the fastest to the smallest."""


Sort = tuple[int, int, int, Schedule, float]
"""What makes a difference between frames: all but how a device comes by as many tokens at a time."""


class Frame(NamedTuple):
    """What a device computes of a micro-batch, and when."""

    tp: int
    cp: int
    pp: int
    parts: int
    schedule: Schedule
    micro_batch: int

    @property
    def sort(self) -> Sort:
        """Frames alike but for cutting twice as many sequences in twice as many pieces are of one sort."""
        return self.tp, self.pp, self.parts, self.schedule, self.micro_batch / self.cp

    @property
    def model(self) -> int:
        """Devices that a sequence is spread over."""
        return self.tp * self.cp * self.pp

    @property
    def unit(self) -> int:
        """The number of micro-batches is a multiple of this: interleaving deals them out in rounds of pp (arXiv
        2104.04473 section 2.2), the dual schedule takes pairs from both ends."""
        return self.pp if self.schedule == "interleaved" else 2 if self.schedule == "dual" else 1

    @property
    def least(self) -> int:
        """Micro-batches that the schedule needs: the dual one fills the pipeline from both ends."""
        return 2 * self.pp if self.schedule == "dual" else self.unit


class Fold(NamedTuple):
    """Experts over the devices of a stage, replicas, and sequences of a step."""

    ep: int
    etp: int
    dp: int
    batch: int

    @property
    def spread(self) -> int:
        """Devices that share the experts of a layer."""
        return self.ep * self.etp


@dataclass(frozen=True, kw_only=True)
class Space:
    """The valid layouts of a model on so many devices.

    Attributes:
        domains: devices joined by each tier of links but the last; tensor parallelism stays inside of one.
        devices: those there are.
        sequence: tokens.
        batch: sequences of a step; a layout's own may differ by a share `slack`.
    """

    shape: Shape
    domains: tuple[int, ...]
    devices: int
    sequence: int
    batch: int
    pins: Pins = field(default_factory=Pins)
    slack: float = BATCH_SLACK

    def __post_init__(self) -> None:
        for name in ("devices", "sequence", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not 0 <= self.slack < 1:
            raise ConfigError(f"slack = {self.slack:g}: must be a share of the batch, from 0 to less than 1")
        self._limits.check(self.pins)
        check_devices(self.pins, self.devices)
        check_batch(self.pins, self.most)

    @cached_property
    def most(self) -> int:
        """Most sequences that a step may have."""
        return int(self.batch * (1 + self.slack))

    @cached_property
    def fewest(self) -> int:
        """Fewest."""
        return ceil(self.batch * (1 - self.slack))

    def frames(self) -> Iterator[Frame]:
        """All valid first halves."""
        for tp in self._tps:
            for cp in self._cps(tp):
                for pp, parts, schedule in self._pipelines:
                    for micro_batch in self._micro_batches:
                        frame = Frame(tp, cp, pp, parts, schedule, micro_batch)
                        if self.replicas(frame):
                            yield frame

    def folds(self, frame: Frame) -> Iterator[Fold]:
        """All second halves of a frame."""
        inner = frame.cp * frame.tp
        for ep, etp in self._experts(frame):
            found = self._data_parallel(frame, ep * etp // gcd(ep * etp, inner))
            if found and self._tables(found[0] * inner):
                yield Fold(ep, etp, *found)

    def layouts(self, frame: Frame, fold: Fold) -> Iterator[Layout]:
        """All layouts of both halves, with the least recomputation there may be: they differ in the devices that n-gram
        tables are spread over."""
        for embp in self._tables(fold.dp * frame.cp * frame.tp):
            yield self._layout(frame, fold, embp)

    def corners(self, frame: Frame, folds: Sequence[Fold]) -> Iterator[Layout]:
        """Layouts of a frame whose fold's sizes are least, and most, with the most recomputation there may be."""
        widest = max(folds, key=lambda fold: fold.spread)
        for end, fold in dict.fromkeys(((0, folds[0]), (-1, widest), (-1, folds[-1]))):
            embp = self._tables(fold.dp * frame.cp * frame.tp)[end]
            yield replace(self._layout(frame, fold, embp), recompute=self.recomputes()[-1])

    def alone(self, frame: Frame, ep: int, etp: int) -> Layout:
        """One stage that cuts layers as a frame and a fold do, with several micro-batches and tables everywhere."""
        replicas = ep * etp
        one = frame._replace(pp=1, parts=1, schedule="1f1b")
        return self._layout(one, Fold(ep, etp, replicas, 2 * replicas * frame.micro_batch), 1)

    def widest(self, frame: Frame) -> list[tuple[int, int]]:
        """The widest spread of experts in each degree to which they may be cut; a frame's folds go no further."""
        found = {etp: ep for ep, etp in sorted(self._experts(frame))}
        return [(ep, etp) for etp, ep in found.items()]

    def recomputes(self) -> tuple[Recompute, ...]:
        """Degrees of recomputation that may be chosen, from the fastest to the smallest."""
        return RECOMPUTES if self.pins.recompute == "any" else (self.pins.recompute,)

    def replicas(self, frame: Frame) -> int:
        """Data-parallel replicas that no layout of a frame exceeds; 0, it has none."""
        most = min(self.devices // frame.model, self.most // (frame.micro_batch * frame.least))
        return most if not self.pins.dp else self.pins.dp if self.pins.dp <= most else 0

    def _data_parallel(self, frame: Frame, multiple: int) -> tuple[int, int] | None:
        """Most replicas that are a multiple of some number, and the batch next to the one asked for.

        A replica computes whole rounds of micro-batches; the fewer they are, the more replicas there may be, so that
        the first number of rounds at which a batch comes out near enough is the best.
        """
        cap, each = self.replicas(frame), frame.micro_batch * frame.unit
        least = frame.least // frame.unit
        if cap < multiple:
            return None
        for rounds in self._rounds(max(least, ceil(self.fewest / (cap * each))), each):
            dp = min(cap, self.most // (each * rounds)) // multiple * multiple
            if not dp:
                return None
            if self.fewest <= dp * each * rounds and dp in (self.pins.dp or dp,):
                nearest = max(least, round(self.batch / (dp * each)))
                return dp, dp * each * nearest
        return None

    def _rounds(self, first: int, each: int) -> Iterable[int]:
        if self.slack:
            return range(first, self.most // each + 1)
        return () if self.batch % each else (rounds for rounds in divisors(self.batch // each) if rounds >= first)

    def _layout(self, frame: Frame, fold: Fold, embp: int) -> Layout:
        pins = self.pins
        return Layout(
            **frame._asdict(),
            **fold._asdict(),
            embp=embp,
            sequence=self.sequence,
            recompute=self.recomputes()[0],
            sequence_parallel=frame.tp > 1,
            zero=pins.zero,
            precision=pins.precision,
            dispatch="fp8" if pins.precision in ("fp8", "fp4") else "bf16",
            optimizer=pins.optimizer,
            offload=pins.offload,
            balanced=pins.balanced,
            overlap=pins.overlap,
            comm_share=pins.comm_share,
        )

    @cached_property
    def _limits(self) -> Limits:
        return Limits(self.shape, self.sequence)

    @cached_property
    def _tps(self) -> list[int]:
        """Sizes whose groups can be placed without straddling a border between domains; a pinned one goes anywhere."""
        if self.pins.tp:
            return [self.pins.tp]
        domains = self.domains or (self.devices,)
        near = {tp for size in domains for tp in divisors(size)}
        return [tp for tp in divisors(self._limits.heads) if tp in near and not self._limits.against_tp(tp)]

    def _cps(self, tp: int) -> list[int]:
        if self.pins.cp:
            return [] if self._limits.against_cp(self.pins.cp, tp) else [self.pins.cp]
        most = max(1, self.sequence // (tp * LEAST_TOKENS))
        return [cp for cp in divisors(self.sequence) if cp <= most and not self._limits.against_cp(cp, tp)]

    @cached_property
    def _pipelines(self) -> list[tuple[int, int, Schedule]]:
        pins, depth = self.pins, self.shape.depth
        return [
            (pp, parts, schedule)
            for pp in ([pins.pp] if pins.pp else range(1, depth + 1))
            for parts in ([pins.parts] if pins.parts else range(1, depth // pp + 1))
            if pp * parts <= depth and self._even(pp, parts)
            for schedule in self._schedules(pp, parts)
        ]

    def _even(self, pp: int, parts: int) -> bool:
        """Whether parts can be alike when embedding, head and draft head may each stand in for a layer.

        Powers of two are tried even so, since they fit machines; sizes that were pinned are taken as they are.
        """
        if (self.pins.pp and (self.pins.parts or parts == 1)) or (parts == 1 and pp & (pp - 1) == 0):
            return True
        spare = 2 + (self.shape.draft is not None)
        return any((self.shape.depth + extra) % (pp * parts) == 0 for extra in range(spare + 1))

    def _schedules(self, pp: int, parts: int) -> list[Schedule]:
        allowed: list[Schedule] = ["interleaved"] if parts > 1 else ["1f1b"]
        if parts == 1 and pp > 1:
            allowed += ["zero-bubble", "dual"] if pp % 2 == 0 else ["zero-bubble"]
        if parts > 1 and pp == 1:
            return []
        return [schedule for schedule in allowed if self.pins.schedule in ("any", schedule)]

    @cached_property
    def _micro_batches(self) -> tuple[int, ...]:
        return (self.pins.micro_batch,) if self.pins.micro_batch else MICRO_BATCHES

    def _experts(self, frame: Frame) -> Iterator[tuple[int, int]]:
        """Expert-parallel sizes, with experts whole, or cut as everything else is."""
        routed = self._limits.routed
        shares = [self.pins.ep] if self.pins.ep else divisors(routed) if routed else [1]
        cuts = [self.pins.etp] if self.pins.etp else sorted({1, frame.tp}) if routed else [1]
        most = self.replicas(frame) * frame.cp * frame.tp
        for etp in cuts:
            if not self._limits.against_etp(etp):
                yield from ((ep, etp) for ep in shares if ep * etp <= most)

    def _tables(self, stage: int) -> list[int]:
        """Spreads of n-gram tables: whole on each device, over a domain of each tier, over all devices of a stage."""
        if self.pins.embp:
            return [self.pins.embp] if stage % self.pins.embp == 0 else []
        if not self.shape.ngram_tables:
            return [1]
        return sorted({1, stage, *(gcd(stage, size) for size in self.domains)})


def space_on(
    cluster: Cluster, shape: Shape, devices: int, sequence: int, batch: int, pins: Pins, slack: float = BATCH_SLACK
) -> Space:
    """The layouts of a model on so many devices of a cluster.

    Raises:
        ConfigError: a number that is not positive, or a pinned size that no layout can have.
    """
    domains = tuple(tier.size for tier in cluster.tiers[:-1] if tier.size)
    return Space(shape=shape, domains=domains, devices=devices, sequence=sequence, batch=batch, pins=pins, slack=slack)
