"""Contestants, and the same load for each of them in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from homegrown.bench.interleave import interleave
from homegrown.bench.record import Spread
from homegrown.bench.serve.drive import Run, drive
from homegrown.bench.serve.figures import Slo, figures
from homegrown.bench.serve.load import Load
from homegrown.bench.serve.outcome import Outcome
from homegrown.bench.serve.peer import StaticBatches
from homegrown.bench.serve.sessions import FIRST, Sessions
from homegrown.bench.serve.target import Asking, Target
from homegrown.bench.serve.words import Words
from homegrown.config import UserError

Tick = Callable[[str], None]

WARM_UP = -1
"""The run that does not count."""


class Contestant(Protocol):
    """Something that can be put under a load.

    Attributes:
        name: in tables and the record.
        timed: it is known when each token came.
        runs: what was measured so far, warm-up not included.
    """

    name: str
    timed: bool
    runs: list[Run]

    def run(self, load: Load, words: Words, number: int, tick: Tick) -> None:
        """Run a load once."""


@dataclass
class Served:
    """A server over HTTP.

    Attributes:
        url, asking, model, key: see `Target`.
    """

    name: str
    url: str
    asking: Asking
    model: str = ""
    key: str = ""
    timed: bool = True
    runs: list[Run] = field(default_factory=list)

    def run(self, load: Load, words: Words, number: int, tick: Tick) -> None:
        """Run a load once.

        Raises:
            UserError: the warm-up got no answer at all; the message has the server's reason.
        """

        def told(outcome: Outcome) -> None:
            tick(self.name if number != WARM_UP else f"{self.name}, warming up")

        run = asyncio.run(self._run(load, words, number, told))
        if number != WARM_UP:
            self.runs.append(run)
        elif not any(outcome.ok for outcome in run.outcomes):
            outcome = run.outcomes[0]
            raise UserError(f"{self.name} at {self.url} answers no request: {outcome.error}: {outcome.message}")

    async def _run(self, load: Load, words: Words, number: int, told: Callable[[Outcome], None]) -> Run:
        target = Target(self.url, self.asking, self.model, self.key)
        try:
            await target.find_model()
            self.model = target.model
            return await drive(target, load, words, number, told)
        finally:
            await target.client.close()


@dataclass
class Static:
    """Static batches of the peer in a process of its own; all prompts are there from the beginning."""

    name: str
    batches: StaticBatches
    timed: bool = False
    runs: list[Run] = field(default_factory=list)

    def run(self, load: Load, words: Words, number: int, tick: Tick) -> None:
        """Run the prompts of a load once, whenever they would arrive."""
        tick(self.name)
        sessions = Sessions(load, words, number).planned()
        made = self.batches.run(sessions)
        if number == WARM_UP:
            return
        outcomes = [
            Outcome(
                session=session.number, group=session.group, wanted=session.turns[0].output, usage=True,
                completion_tokens=session.turns[0].output, ended=made.seconds,
            )
            for session in sessions
        ]  # fmt: skip
        self.runs.append(Run(outcomes, made.seconds))


def compete(
    contestants: Sequence[Contestant], load: Load, words: Words, warmup: int, repetitions: int, tick: Tick
) -> list[str]:
    """Run the load on every contestant in turn, again and again, so that a slow minute hits all of them alike.

    In one round all get the same prompts; every round has new ones, so that no round finds another's in a prefix cache.

    Args:
        contestants: at least one.
        load: what each gets in a round.
        words: to make prompts of.
        warmup: requests of a round that does not count, before the others; 0: none.
        repetitions: rounds.
        tick: called with the contestant's name for every request that has ended.

    Returns:
        Names in the order in which they had their turns.
    """
    if warmup:
        for contestant in contestants:
            contestant.run(warm_up(load, warmup), words, WARM_UP, tick)
    rounds = iter(range(repetitions * len(contestants)))

    def turn(contestant: Contestant) -> Callable[[], None]:
        return lambda: contestant.run(load, words, next(rounds) // len(contestants), tick)

    return list(interleave({one.name: turn(one) for one in contestants}, 0, repetitions))


def warm_up(load: Load, requests: int) -> Load:
    """A few requests of a load's kind, all at once."""
    return replace(
        load, requests=requests, rate=0.0, concurrency=0, prefixes=0, cold=False, long=0, turns="1", pause=0.0
    )


def measured(run: Run) -> list[Outcome]:
    """The outcomes of a run that count: not the first uses of prefixes."""
    return [outcome for outcome in run.outcomes if outcome.group != FIRST]


def pooled(contestant: Contestant) -> list[Outcome]:
    """All outcomes of a contestant that count."""
    return [outcome for run in contestant.runs for outcome in measured(run)]


def results(contestant: Contestant, slo: Slo) -> dict[str, Any]:
    """Figures of all runs of a contestant together, and the spread of the main ones over its runs.

    Of one that is not timed there are no times and no goodput.
    """
    rounds = [figures(measured(run), run.duration, slo) for run in contestant.runs]
    together = figures(pooled(contestant), sum(run.duration for run in contestant.runs), slo)
    together |= {name: max(each[name] for each in rounds) for name in _PEAKS}
    spreads = {name: Spread.of([each[name] for each in rounds]) for name in _MAIN}
    if not contestant.timed:
        together = {name: value for name, value in together.items() if not _of_time(name)}
        spreads = {name: value for name, value in spreads.items() if not _of_time(name)}
    return {"name": contestant.name, **together, "rounds": spreads}


def ratios(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first contestant against each of the others: output tokens a second, and median times to the first token.

    Above one, the first is better; `output_throughput_rounds` is the same within each round. `median_ttft` is `None`
    where the other is not timed.
    """
    first, *others = results
    return [
        {
            "peer": other["name"],
            "output_throughput": first["output_throughput"] / other["output_throughput"],
            "output_throughput_rounds": _paired(first, other),
            "median_ttft": _quotient(other.get("median_ttft_ms"), first["median_ttft_ms"]),
        }
        for other in others
        if other["output_throughput"]
    ]


_MAIN = ("output_throughput", "request_throughput", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "median_itl_ms")
_PEAKS = ("max_output_tokens_per_s", "max_concurrent_requests")


def _of_time(name: str) -> bool:
    return name.endswith("_ms") or "goodput" in name or name in (*_PEAKS, "tokens_per_chunk")


def _paired(first: dict[str, Any], other: dict[str, Any]) -> Spread:
    ours, theirs = (each["rounds"]["output_throughput"].values for each in (first, other))
    return Spread.of([mine / its if its else 0.0 for mine, its in zip(ours, theirs, strict=True)])


def _quotient(part: float | None, whole: float) -> float | None:
    return part / whole if part is not None and whole else None
