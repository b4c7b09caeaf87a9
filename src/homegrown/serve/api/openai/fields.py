"""Fields of a request that chat and plain completions share, and the `Options` they make."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from homegrown.serve.conversation import Options
from homegrown.serve.service import Service


class StreamOptions(msgspec.Struct, kw_only=True):
    """`stream_options`."""

    include_usage: bool | None = None


class StructuredOutputs(msgspec.Struct, kw_only=True):
    """`structured_outputs`, an extra that vLLM's clients send; one of these."""

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class Fields(msgspec.Struct, kw_only=True):
    """What may stand in either request; `None` is the same as absent. Those of OpenAI first, then common extras."""

    model: str | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    max_tokens: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None

    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    cache_salt: str | None = None
    priority: int | None = None
    regex: str | None = None
    grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def answers(self) -> int:
        """How many are to be made."""
        return 1 if self.n is None else self.n


def options(request: Request, fields: Fields, service: Service, max_tokens: int | None, **logprobs: int) -> Options:
    """The options of a request.

    Args:
        request: says who asks.
        fields: its body.
        service: has the defaults for what the client left open.
        max_tokens: how many tokens an answer may have; `None`: as many as fit.
        logprobs: the fields of `Sampling` with this word in their names.
    """
    sampling = service.sampling(
        max_tokens=max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        min_p=fields.min_p,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        repetition_penalty=fields.repetition_penalty,
        logit_bias=fields.logit_bias,
        seed=fields.seed,
        min_tokens=fields.min_tokens,
        stop_ids=None if fields.stop_token_ids is None else tuple(fields.stop_token_ids),
        ignore_eos=fields.ignore_eos,
        **logprobs,
    )
    client = getattr(request.state, "client", None)
    return Options(
        sampling=sampling,
        stop=(fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ()),
        answers=fields.answers,
        tenant=client.tenant if client else "",
        priority=_priority(fields.priority, client),
        salt=fields.cache_salt or "",
    )


def _priority(wanted: int | None, client: Any) -> int:
    """A request may ask for less than its key's priority, never for more."""
    if client is None:
        return wanted or 0
    return int(client.priority if wanted is None else min(wanted, client.priority))
