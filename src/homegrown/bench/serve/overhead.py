"""What HTTP and scheduling add to the engine's own work."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from homegrown import hub
from homegrown.bench.interleave import interleave
from homegrown.bench.record import Spread
from homegrown.bench.serve.drive import drive
from homegrown.bench.serve.load import Load
from homegrown.bench.serve.target import Asking, Target
from homegrown.bench.serve.words import Words
from homegrown.config import UserError
from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.messages import Output, Request, Sampling
from homegrown.tokenizer import Tokenizer

PROMPT, ANSWER = 64, 128
"""Tokens of the requests that are compared."""
QUEUES = (0, 1000, 4000, 0)
"""Requests that wait while one runs; the last shows how far the first drifted."""
_STEPS = 64
_SETTLE = 4


@dataclass(frozen=True, kw_only=True)
class Queued:
    """Steps of one running request while others wait.

    Attributes:
        waiting: how many.
        step_ms: a step's time.
        first_step_ms: of the step that took them all in.
    """

    waiting: int
    step_ms: Spread
    first_step_ms: float


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """One request at a time: milliseconds a token behind the first.

    Attributes:
        engine_ms: in this process, without HTTP: steps of the engine and nothing else.
        http_ms: through the server, as a client on the same machine sees it, its own work included.
        share: of the engine's time that HTTP, scheduling and text add: median over median, less one.
        paired: the same within each round.
        queued: the engine with others waiting.
    """

    engine_ms: Spread
    http_ms: Spread
    share: float
    paired: Spread
    queued: list[Queued]


def measure_overhead(
    folder: Path, url: str, words: Words, repetitions: int, tick: Callable[[str], None] = lambda label: None
) -> Overhead:
    """Compare turn by turn, then let the queue grow.

    Args:
        folder: the model.
        url: of a server that runs it with the engine's default options.
        words: to make prompts of.
        repetitions: measured rounds, behind one that warms up.
        tick: called before each turn.

    Raises:
        UserError: the directory has no tokenizer, or the server fails.
    """
    model, tokenizer = hub.load(folder)
    if tokenizer is None:
        raise UserError(f"{folder}: there is no tokenizer.json, and without one nothing can be served")
    engine_ms: list[float] = []
    http_ms: list[float] = []
    engine = Engine(model.eval(), EngineOptions(), tokenizer)

    def inside() -> None:
        engine_ms.append(_engine_turn(engine, tokenizer, words, len(engine_ms)))

    def outside() -> None:
        http_ms.append(_http_turn(url, words, len(http_ms)))

    interleave({"engine alone": inside, "through HTTP": outside}, 1, repetitions, tick)
    engine_ms, http_ms = engine_ms[1:], http_ms[1:]
    alone, through = Spread.of(engine_ms), Spread.of(http_ms)
    tick("waiting requests")
    queue = Engine(model, EngineOptions(max_running=1), tokenizer)
    return Overhead(
        engine_ms=alone,
        http_ms=through,
        share=through.median / alone.median - 1,
        paired=Spread.of([outer / inner - 1 for inner, outer in zip(engine_ms, http_ms, strict=True)]),
        queued=_queues(queue),
    )


def _engine_turn(engine: Engine, tokenizer: Tokenizer, words: Words, number: int) -> float:
    """Milliseconds a token behind the first step's, of one answer."""
    prompt = [tokenizer.bos_id, *tokenizer.encode(words.text(PROMPT, random.Random(f"engine/{number}")))]
    engine.add(_request(f"turn-{number}", prompt, ANSWER))
    tokens = 0
    while not tokens:
        tokens = sum(len(output.tokens) for output in _checked(engine.step()))
    began, more = time.perf_counter(), 0
    while not engine.idle:
        more += sum(len(output.tokens) for output in _checked(engine.step()))
    return (time.perf_counter() - began) * 1e3 / more


def _http_turn(url: str, words: Words, number: int) -> float:
    load = Load(requests=1, concurrency=1, input=str(PROMPT), output=str(ANSWER), seed=number)

    async def turn() -> float:
        target = Target(url, Asking())
        try:
            await target.find_model()
            (outcome,) = (await drive(target, load, words)).outcomes
        finally:
            await target.client.close()
        if outcome.tpot is None:
            raise UserError(f"{url}: {outcome.error or 'no tokens came'}: {outcome.message}")
        return outcome.tpot * 1e3

    return asyncio.run(turn())


def _queues(engine: Engine) -> list[Queued]:
    """Steps of one request while ever more wait."""
    steps = len(QUEUES) * (_STEPS + _SETTLE + 1) * 8  # a step may make several tokens
    engine.add(_request("runs", list(range(100, 100 + PROMPT)), min(steps, engine.longest - PROMPT - 1)))
    while not _checked(engine.step()):
        pass
    found = []
    for place, waiting in enumerate(QUEUES):
        names = [f"waits-{place}-{number}" for number in range(waiting)]
        for number, name in enumerate(names):
            engine.add(_request(name, [100 + number % 50, *range(100, 100 + PROMPT)], 1))
        first = _timed(engine)
        for _ in range(_SETTLE):
            engine.step()
        found.append(
            Queued(waiting=waiting, step_ms=Spread.of([_timed(engine) for _ in range(_STEPS)]), first_step_ms=first)
        )
        for name in names:
            engine.abort(name)
    engine.abort("runs")
    return found


def _timed(engine: Engine) -> float:
    began = time.perf_counter()
    engine.step()
    return (time.perf_counter() - began) * 1e3


def _request(name: str, prompt: list[int], tokens: int) -> Request:
    sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return Request(id=name, prompt=prompt, sampling=sampling, arrived=time.time())


def _checked(outputs: list[Output]) -> list[Output]:
    for output in outputs:
        if output.finish == "error":
            raise UserError(f"the engine failed: {output.error}")
    return outputs
