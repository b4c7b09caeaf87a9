"""Runs, replayed from their inputs, and what became of the figures that were published about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from homegrown.config import ConfigError
from homegrown.plan.quantity import Interval, World
from homegrown.plan.reading import did_you_mean
from homegrown.plan.validate.figures import FIGURES, Figure
from homegrown.plan.validate.other import consume, fail, pay
from homegrown.plan.validate.runs import (
    Cost,
    Energy,
    Inputs,
    Published,
    Ratio,
    Reliability,
    Run,
    Scaling,
    Serving,
    Training,
    Work,
)
from homegrown.plan.validate.scene import Replay, Scene
from homegrown.plan.validate.serving import serve
from homegrown.plan.validate.training import count, scale, train


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A published figure beside what the planner says.

    Attributes:
        predicted: the best guess and the 80 % interval.
    """

    run: Run
    published: Published
    predicted: Interval

    @property
    def figure(self) -> Figure:
        """What is compared."""
        return FIGURES[self.published.figure]

    @property
    def error(self) -> float:
        """Predicted over published less one, or the difference in points of a share; 0 where a bound is kept."""
        value, known = self.predicted.value, self.published
        if (known.bound == "at least" and value >= known.low) or (known.bound == "at most" and value <= known.high):
            return 0.0
        return value - known.value if self.figure.points else value / known.value - 1

    @property
    def certain(self) -> bool:
        """Whether nothing that the planner doubts enters: a count, or arithmetic with what was put in."""
        return self.predicted.low == self.predicted.high

    @property
    def inside(self) -> bool | None:
        """Whether the published figure lies in the interval; of a range or a bound, any part of it. None, there is no
        interval: the prediction is `certain`."""
        if self.certain:
            return None
        least = 0.0 if self.published.bound == "at most" else self.published.low
        most = float("inf") if self.published.bound == "at least" else self.published.high
        return self.predicted.low <= most and least <= self.predicted.high

    @property
    def within(self) -> bool | None:
        """Whether the error is within the tolerance; None, none was declared."""
        return None if self.published.tolerance is None else abs(self.error) <= self.published.tolerance

    @property
    def missed(self) -> bool:
        """Whether it counts as a miss: outside the tolerance or, where there is none, outside the interval."""
        return self.inside is False if self.within is None else not self.within

    @property
    def reason(self) -> str:
        """Why it was missed, as far as the file says."""
        return (self.published.reason or "unexplained") if self.missed else ""


def replay_runs(runs: Sequence[Run], scene: Scene, only: Iterable[str] = ()) -> list[Outcome]:
    """Every published figure of the runs, replayed.

    Args:
        runs: to be replayed, with those that ratios among them name.
        scene: the worlds.
        only: ids of runs, or beginnings of ids; none, all.

    Raises:
        ConfigError: a run cannot be replayed, or `only` names none; the sentence says which.
    """
    only = tuple(only)
    for name in only:
        if not any(run.id.startswith(name) for run in runs):
            raise ConfigError(f"no run {name!r}{did_you_mean(name, [run.id for run in runs])}")
    inputs = {run.id: run.inputs for run in runs}
    chosen = [run for run in runs if not only or run.id.startswith(only)]
    return [outcome for run in chosen for outcome in _outcomes(run, predict(run.id, inputs, scene))]


def predict(name: str, inputs: Mapping[str, Inputs], scene: Scene) -> dict[str, Interval]:
    """What the planner says about a run. It is given inputs alone, its own and those of runs that it is compared with.

    Raises:
        ConfigError: the run cannot be replayed.
    """
    try:
        return scene.intervals(replay(inputs[name], inputs, scene))
    except ConfigError as error:
        raise ConfigError(f"run {name!r}: {error}") from None


def replay(inputs: Inputs, others: Mapping[str, Inputs], scene: Scene) -> Replay:
    """What says a run's figures in each world."""
    match inputs:
        case Training():
            return train(inputs, scene)
        case Scaling():
            return scale(inputs, scene)
        case Work():
            return count(inputs, scene)
        case Serving():
            return serve(inputs, scene)
        case Reliability():
            return fail(inputs, scene)
        case Energy():
            return consume(inputs, scene)
        case Cost():
            return pay(inputs, scene)
        case Ratio():
            return _ratio(inputs, others, scene)


def _ratio(inputs: Ratio, others: Mapping[str, Inputs], scene: Scene) -> Replay:
    over, under = (replay(others[name], others, scene) for name in (inputs.over, inputs.under))

    def divided(world: World, number: int) -> Mapping[str, float]:
        above, below = over(world, number), under(world, number)
        if inputs.figure not in above or inputs.figure not in below:
            known = sorted(set(above) & set(below))
            raise ConfigError(f"inputs.figure = {inputs.figure!r}: the planner says {', '.join(known)} of both")
        return {"ratio": above[inputs.figure] / below[inputs.figure]}

    return divided


def _outcomes(run: Run, predicted: Mapping[str, Interval]) -> list[Outcome]:
    found = []
    for published in run.published:
        if published.key not in predicted:
            known = sorted({key.partition("@")[0] for key in predicted})
            raise ConfigError(
                f"run {run.id!r}: published.{published.key}: the planner does not say this of such inputs, but "
                f"{', '.join(known)}"
            )
        found.append(Outcome(run=run, published=published, predicted=predicted[published.key]))
    return found
