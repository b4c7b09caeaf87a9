"""The routes over a scripted backend or a real tiny model, and the official SDK as their client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import httpx
import torch
from openai import OpenAI
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from homegrown.serve.api.openai import errors, routes
from homegrown.serve.backend import Backend
from homegrown.serve.card import ModelCard
from homegrown.serve.errors import ApiError
from homegrown.serve.messages import Output, Request, Stats, TokenScore, Usage
from homegrown.serve.service import Service

from ...running import running
from ...scripted import ScriptedBackend
from ...tiny import tiny_config, tiny_model, tiny_tokenizer

CARD = ModelCard(
    id="tiny", context_length=2048, max_output=512, name="Tiny", aliases=("anthropic/tiny",), created=1_700_000_000
)


def tokens(text: str) -> list[int]:
    return tiny_tokenizer().encode(text)


def says(*texts: str, end: bool = True, **options: Any) -> ScriptedBackend:
    """A backend whose answers are these texts, one for each request in turn and then the last one."""
    made = [tokens(text) + [tiny_tokenizer().eos_id] * end for text in texts]
    backend: ScriptedBackend

    def script(request: Request) -> list[int]:
        return made[min(len(backend.requests), len(made)) - 1]

    backend = ScriptedBackend(script, **options)
    return backend


def build(backend: Backend, card: ModelCard = CARD, **options: Any) -> Starlette:
    service = Service(backend, tiny_tokenizer(), tiny_config(), card)
    return Starlette(routes=routes(service, **options), exception_handlers={ApiError: _on_error})


async def _on_error(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    status, body, headers = errors.render(error, "req_1")
    return JSONResponse(body, status, headers)


@contextmanager
def client(app: ASGIApp) -> Iterator[OpenAI]:
    """The SDK, talking to a real server."""
    with running(app) as address, OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as sdk:
        yield sdk


def asking(app: ASGIApp) -> httpx.AsyncClient:
    """Requests without a server between: the response comes in one piece."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


class DirectBackend:
    """A reference: the model run over the whole text for every token, greedily, with all log probabilities."""

    def __init__(self) -> None:
        self.model = _model()
        self.state = "ready"

    def stats(self) -> Stats:
        return Stats()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        """float64 [S, V]."""
        with torch.inference_mode():
            return self.model(torch.tensor([ids]))[0].double().log_softmax(-1)

    def score(self, row: torch.Tensor, token: int, top: int) -> TokenScore:
        best = row.topk(top) if top else None
        likeliest = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else ()
        return TokenScore(row[token].item(), likeliest)

    async def submit(self, request: Request) -> AsyncIterator[Output]:
        ids, sampling = list(request.prompt), request.sampling
        usage = Usage(prompt_tokens=len(ids))
        for number in range(sampling.max_tokens):
            table = self.logprobs(ids)
            token = int(table[-1].argmax())
            prompt_scores = None
            if number == 0 and sampling.prompt_logprobs >= 0:
                prompt_scores = [None] + [
                    self.score(table[index], following, sampling.prompt_logprobs)
                    for index, following in enumerate(ids[1:])
                ]
            scores = [self.score(table[-1], token, sampling.logprobs)] if sampling.logprobs >= 0 else None
            ids.append(token)
            usage = replace_usage(usage, number + 1)
            ended = (
                "stop" if token == tiny_tokenizer().eos_id else "length" if number + 1 == sampling.max_tokens else None
            )
            yield Output(
                id=request.id, tokens=[token], scores=scores, prompt_scores=prompt_scores, finish=ended, usage=usage
            )
            if ended:
                return


def replace_usage(usage: Usage, completion: int) -> Usage:
    return Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=completion)


@lru_cache
def _model() -> Any:
    return tiny_model().eval()


def priced(**changes: Any) -> ModelCard:
    return replace(CARD, **changes)
