"""A made-up model for tests of choosing: logits that depend on everything before them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from homegrown.serve.engine.choice import Choice
from homegrown.serve.engine.choose import Turn, choose
from homegrown.serve.grammar import Matcher
from homegrown.serve.messages import Request, Sampling

Model = Callable[[Sequence[int]], Tensor]


def choice(
    vocab: int,
    *,
    prompt: Sequence[int] = (1,),
    ends: Collection[int] = (),
    matcher: Matcher | None = None,
    **fields: Any,
) -> Choice:
    sampling = Sampling(**{"max_tokens": 1000, **fields})
    return Choice(Request(id="r", prompt=list(prompt), sampling=sampling), vocab, ends, matcher)


def talk(vocab: int, scale: float = 2.0) -> Model:
    """A function of contexts: random logits [V], the same for the same context."""

    def logits(context: Sequence[int]) -> Tensor:
        seed = zlib.crc32(repr(list(context)).encode())
        return scale * torch.randn(vocab, generator=torch.Generator().manual_seed(seed))

    return logits


def plain(model: Model, state: Choice) -> list[int]:
    """Tokens one at a time until the end."""
    while state.finish is None:
        context = [*state.request.prompt, *state.tokens]
        choose(model(context)[None], [Turn(state)])
    return state.tokens


def drafted(model: Model, state: Choice, guess: Callable[[Sequence[int]], int], count: int) -> tuple[list[int], int]:
    """The same with `count` drafts a turn, each the guess for its context; also how many were accepted."""
    accepted = 0
    while state.finish is None:
        context = [*state.request.prompt, *state.tokens]
        drafts: list[int] = []
        for _ in range(count):
            drafts.append(guess([*context, *drafts]))
        rows = torch.stack([model([*context, *drafts[:taken]]) for taken in range(count + 1)])
        accepted += choose(rows, [Turn(state, drafts)])[0].accepted
    return state.tokens, accepted
