"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from homegrown.serve.api import body
from homegrown.serve.api.openai import errors
from homegrown.serve.api.openai.chunks import chunks
from homegrown.serve.api.openai.completion_encoding import CompletionEncoder, encode_answers
from homegrown.serve.api.openai.fields import Fields, options
from homegrown.serve.api.openai.formats import read_format
from homegrown.serve.api.openai.head import Head, fingerprint
from homegrown.serve.api.openai.logprobs import CompletionLogprobs
from homegrown.serve.api.openai.scoring import only_prompts
from homegrown.serve.collect import collect
from homegrown.serve.conversation import Completion
from homegrown.serve.errors import ApiError
from homegrown.serve.http.gone import unless_gone
from homegrown.serve.http.sse import stream
from homegrown.serve.service import Service

MAX_TOKENS = 16
"""What OpenAI's API makes where a request does not say how many."""
MAX_PROMPTS = 1024
"""In one request."""


class CompletionBody(Fields, kw_only=True):
    """The body of a request. What is not listed is ignored."""

    prompt: str | list[str | int | list[int]]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None

    @property
    def candidates(self) -> int:
        """How many answers are made of each prompt, of which the best are shown."""
        return self.answers if self.best_of is None else self.best_of

    @property
    def only_prompt(self) -> bool:
        """Whether nothing is to be made, but the prompt to be given back."""
        return self.max_tokens == 0 and bool(self.echo)


class Completions:
    """The route.

    Args:
        service: answers.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._fingerprint = service, fingerprint(service)

    async def answer(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            ApiError: it is not carried out.
        """
        service, given = self._service, await body.read(request, CompletionBody)
        if given.model is not None:
            service.card.check(given.model)
        prepared = [await service.prepare_completion(one) for one in completions(request, given, service)]
        events = service.events(*prepared)
        if given.only_prompt:
            events = only_prompts(events, [one.reading.echo for one in prepared], given.candidates)
        head = Head.new("cmpl", "text_completion", given.model or service.card.id, self._fingerprint)
        logprobs = None if given.logprobs is None else self._logprobs(given)
        if given.stream:
            encoder = CompletionEncoder(head, usage=given.wants_usage, logprobs=logprobs, answers=given.answers)
            return stream(chunks(events, encoder), on_error=errors.event)
        answers = await unless_gone(request, collect(events))
        encoded = encode_answers(head, answers, made=given.candidates, shown=given.answers, logprobs=logprobs)
        return Response(encoded, media_type="application/json")

    def _logprobs(self, given: CompletionBody) -> Callable[[], CompletionLogprobs]:
        """Makes the log probabilities of an answer."""
        service = self._service
        begins = given.echo and _is_text(given.prompt)  # a token that is not in the text is put before it
        before = len(service.detokenize([service.tokenizer.bos_id])) if begins else 0
        return lambda: CompletionLogprobs(service.token_bytes, before)


def completions(request: Request, given: CompletionBody, service: Service) -> list[Completion]:
    """A request as the service understands it: one completion a prompt.

    Raises:
        ApiError: `invalid`: fields contradict each other or are not supported.
    """
    if given.suffix:
        message = "Field `suffix`: is not supported; the model continues a text, it does not fill a gap in one."
        raise ApiError("invalid", message, param="suffix")
    if given.candidates < given.answers or (given.stream and given.candidates != given.answers):
        message = "Field `best_of`: must be at least `n`, and equal to it in a stream, which cannot be ranked."
        raise ApiError("invalid", message, param="best_of")
    asked = -1 if given.logprobs is None else given.logprobs
    ranked = given.candidates > given.answers
    made = options(
        request,
        given,
        service,
        1 if given.only_prompt else MAX_TOKENS if given.max_tokens is None else given.max_tokens,
        logprobs=max(asked, 0) if ranked else asked,
        prompt_logprobs=asked if given.echo else -1,
    )
    made = replace(made, answers=given.candidates)
    wanted = read_format(given)
    return [
        Completion(prompt=prompt, options=made, format=wanted, echo=bool(given.echo))
        for prompt in _prompts(given.prompt)
    ]


def _is_text(given: str | Sequence[str | int | list[int]]) -> bool:
    return isinstance(given, str) or (len(given) > 0 and isinstance(given[0], str))


def _prompts(given: str | Sequence[str | int | list[int]]) -> list[str | list[int]]:
    """The prompts of any of the four forms: text, texts, tokens, lists of tokens."""
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    prompts = [item for item in given if not isinstance(item, int)]
    if tokens and prompts:
        raise ApiError("invalid", "Field `prompt`: must have tokens or prompts, not both in one list.", param="prompt")
    if len(prompts) > MAX_PROMPTS:
        raise ApiError("invalid", f"Field `prompt`: must have at most {MAX_PROMPTS} prompts.", param="prompt")
    return prompts or [tokens]  # no tokens at all are refused as any empty prompt is
