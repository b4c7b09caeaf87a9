"""Training jobs, replayed: step time, throughput, utilisation, memory, device-hours."""

from __future__ import annotations

from collections.abc import Mapping

from homegrown.config import ConfigError
from homegrown.plan.days import outlook
from homegrown.plan.facts import Machine, Shape
from homegrown.plan.layout import Layout
from homegrown.plan.memory import memory
from homegrown.plan.quantity import EXPECTED, Quantity, World
from homegrown.plan.results import Memory, StepTime
from homegrown.plan.shapes import parameters
from homegrown.plan.step import step_time
from homegrown.plan.validate.runs import Scaling, Training, Work
from homegrown.plan.validate.scene import Replay, Scene
from homegrown.plan.work import flops

DAY = 86_400.0
HOUR = 3600.0
TURN = Quantity(
    value=1.0,
    low=1 / 1.02,
    high=1.02,
    mark="B",
    source="arXiv 2407.21783 section 3.3.4: throughput varied by 1 to 2 % with the time of day",
    date="2024-07",
)
"""How far the same job's rate differs from one time and place to another. All else that is unknown about the points of
a series is the same for all of them and leaves their ratios alone."""


def train(job: Training, scene: Scene) -> Replay:
    """Figures of a training job."""
    run = Job(job, scene)

    def replay(world: World, number: int) -> Mapping[str, float]:
        return run.figures(world, number)

    return replay


class Job:
    """A training job with its layouts chosen, once for all worlds.

    Raises:
        ConfigError: no layout of a case suits the model.
    """

    def __init__(self, job: Training, scene: Scene) -> None:
        self.job, self.scene = job, scene
        self.shape = scene.shape(job.work.model, draft_head=job.work.draft_head)
        self.cluster = scene.cluster(job.cluster)
        self.cases = tuple(self._fastest(case) for case in job.cases)
        self.work = token_work(job.work, self.shape)

    def _fastest(self, case: tuple[Layout, ...]) -> Layout:
        """The fastest layout that fits, at the best guess. If none does by the planner's count the fastest of all: one
        of them did run."""
        room = self.scene.machine(self.job.cluster, EXPECTED).memory
        found: list[tuple[bool, float, Layout]] = []
        problem: ConfigError | None = None
        for layout in case:
            try:
                held, time = self.held(layout, EXPECTED).total, self.time(layout, EXPECTED).seconds
            except ConfigError as error:
                problem = error
                continue
            found.append((held > room, time, layout))
        if not found:
            raise problem or ConfigError("no layout")
        return min(found, key=lambda entry: entry[:2])[2]

    def case(self, number: int) -> Layout:
        """The case of a world: the middle one at the best guess, else each in turn."""
        return self.cases[len(self.cases) // 2 if not number else number % len(self.cases)]

    def time(self, layout: Layout, world: World) -> StepTime:
        """A step in one world."""
        machine, constants = self.scene.machine(self.job.cluster, world), self.scene.constants(world)
        return step_time(self.shape, layout, machine, constants)

    def held(self, layout: Layout, world: World) -> Memory:
        """Bytes on the fullest device in one world."""
        return memory(self.shape, layout, self.scene.overheads(world))

    def figures(self, world: World, number: int) -> dict[str, float]:
        """All figures in one world."""
        layout = self.case(number)
        time, held = self.time(layout, world), self.held(layout, world)
        rate = time.tokens / time.seconds / layout.devices
        machine = self.scene.machine(self.job.cluster, world)
        found = {
            "step": time.seconds,
            "tokens_per_s": rate * layout.devices,
            "tokens_per_s_device": rate,
            "flops_token": self.work,
            "flops_device": rate * self.work,
            "mfu": rate * self.work / peak(machine, self.job.work.peak),
        }
        return found | memory_figures(held) | self._whole(time, held, layout, world)

    def _whole(self, time: StepTime, held: Memory, layout: Layout, world: World) -> dict[str, float]:
        """Of all its tokens."""
        if not self.job.tokens:
            return {}
        seconds = self.job.tokens / time.tokens * time.seconds
        if self.job.own_goodput:
            long = outlook(
                self.cluster, time, tokens=self.job.tokens, devices=layout.devices, used=layout.devices,
                state=memory_figures(held)["state"], world=world,
            )  # fmt: skip
            seconds = long["days"] * DAY
        return {"device_hours": seconds * layout.devices, "days": seconds}


def count(work: Work, scene: Scene) -> Replay:
    """Figures of a model's work, which no world changes."""
    shape = scene.shape(work.model, draft_head=work.draft_head)
    numbers = parameters(shape)
    found = {"flops_token": token_work(work, shape), "parameters": numbers.total, "active": numbers.active()}

    def replay(world: World, number: int) -> Mapping[str, float]:
        return found

    return replay


def scale(series: Scaling, scene: Scene) -> Replay:
    """Figures of each point of a series, and its throughput a device over the first point's."""
    jobs = [(label, Job(job, scene)) for label, job in series.points]

    def replay(world: World, number: int) -> Mapping[str, float]:
        found, first = {}, 0.0
        for label, job in jobs:
            figures = job.figures(world, number)
            rate = figures["tokens_per_s_device"] * world.of(f"series.{label}", TURN)
            first = first or rate
            figures["efficiency"] = rate / first
            found.update({f"{name}@{label}": value for name, value in figures.items()})
        return found

    return replay


def token_work(work: Work, shape: Shape) -> float:
    """FLOPs of a token, forward and backward, as the publication counts them."""
    counted = flops(shape, work.sequence, causal=work.attention == "causal")
    return 3 * counted.total(draft=work.counts_draft, router=work.counts_router)


def peak(machine: Machine, dtype: str) -> float:
    """FLOP/s that utilisation is a share of."""
    if dtype not in machine.peak:
        raise ConfigError(f"peak = {dtype!r}: the chip's peaks are of {', '.join(machine.peak)}")
    return machine.peak[dtype]


def memory_figures(held: Memory) -> dict[str, float]:
    """The memory of the fullest device, by what publications tell apart."""
    kept = ("activations", "ends' activations")
    other = (*kept, "backward", "experts' slack", "communication", "reserve")
    return {
        "memory": held.total,
        "activations": sum(held.parts.get(name, 0.0) for name in kept),
        "state": sum(size for name, size in held.parts.items() if name not in other),
    }
