"""Runs engines in tests, and says what they should have said."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from homegrown.config import ModelConfig
from homegrown.generate import SamplingConfig, generate
from homegrown.model import Longcat
from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.messages import Output, Request, Sampling

from ...generate.talker import talker
from ..tiny import tiny_config

CHUNK = 16


def noisy_model(dtype: torch.dtype = torch.float32, seed: int = 1, **changes: Any) -> Longcat:
    """A model whose text hangs on all of its parts, and whose draft head is sometimes right."""
    return talker(tiny_config(**changes), seed, noise=2.0, dtype=dtype).eval()


def engine(model: Longcat, **options: Any) -> Engine:
    """With small pages and chunks, and no regard to time."""
    return Engine(model, EngineOptions(**{"page_size": 8, "pages": 100, "chunk": CHUNK, "step_ms": 1e6, **options}))


def request(name: str, prompt: Sequence[int], max_tokens: int = 8, **fields: Any) -> Request:
    """Greedy unless `fields`, which go to the request or its sampling, say otherwise."""
    own = {key: fields.pop(key) for key in ("tenant", "priority", "salt", "arrived") if key in fields}
    sampling = Sampling(max_tokens=max_tokens, **{"temperature": 0.0, **fields})
    return Request(id=name, prompt=list(prompt), sampling=sampling, **own)


def random_requests(config: ModelConfig, count: int, seed: int, most: int = 30, **fields: Any) -> list[Request]:
    """Prompts of random lengths, half of which begin like another one."""
    rng = random.Random(seed)

    def tokens(length: int) -> list[int]:
        return [rng.randrange(4, config.vocab_size) for _ in range(length)]

    stems = [tokens(rng.randint(20, 60)) for _ in range(2)]
    made = []
    for number in range(count):
        prompt = (rng.choice(stems) if number % 2 else []) + tokens(rng.randint(1, 25))
        made.append(request(str(number), prompt, rng.randint(1, most), seed=number, **fields))
    return made


def told_alone(model: Longcat, wanted: Request) -> list[int]:
    """What `homegrown generate` says to a request."""
    sampling = wanted.sampling
    config = SamplingConfig(
        temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, min_p=sampling.min_p,
        seed=sampling.seed, max_tokens=sampling.max_tokens,
    )  # fmt: skip
    return [piece.token for piece in generate(model, None, wanted.prompt, config, chunk=CHUNK)]


class Told:
    """What became of requests.

    Attributes:
        outputs: of each request, in order.
    """

    def __init__(self, outputs: Iterable[Output] = ()) -> None:
        self.outputs: dict[str, list[Output]] = {}
        self.add(outputs)

    def add(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            self.outputs.setdefault(output.id, []).append(output)

    def tokens(self, name: str) -> list[int]:
        return [token for output in self.outputs[name] for token in output.tokens]

    def last(self, name: str) -> Output:
        """The only output that says why it is the last."""
        *others, last = self.outputs[name]
        assert last.finish is not None
        assert all(output.finish is None for output in others)
        return last


def run(
    runs: Engine, requests: Sequence[Request], seed: int | None = None, each: Callable[[], None] = lambda: None
) -> Told:
    """Run requests to their end: all at once, or coming at random times."""
    rng, told, coming = random.Random(seed), Told(), list(requests)
    while coming or not runs.idle:
        while coming and (seed is None or rng.random() < 0.4):
            runs.add(coming.pop(0))
        told.add(runs.step())
        each()
    runs.check()
    assert runs.stats().pages_used == 0
    assert runs.stats().host_pages_used == 0
    return told
