"""`/v1/responses` and what belongs to it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from homegrown.serve.api.body import read
from homegrown.serve.api.responses import schema
from homegrown.serve.api.responses.decode import conversation, toolbox_of
from homegrown.serve.api.responses.encode import Encoder, frame
from homegrown.serve.api.responses.items import normal
from homegrown.serve.api.responses.job import Background, Job
from homegrown.serve.api.responses.listing import page
from homegrown.serve.api.responses.opening import opening
from homegrown.serve.api.responses.store import Store
from homegrown.serve.api.seal import Seal
from homegrown.serve.conversation import Options
from homegrown.serve.errors import ApiError
from homegrown.serve.http.gone import unless_gone
from homegrown.serve.http.sse import stream
from homegrown.serve.messages import Sampling
from homegrown.serve.service import Service

_SEALED, _SCORED = "reasoning.encrypted_content", "message.output_text.logprobs"


def routes(
    service: Service,
    seal: Seal | None = None,
    store: Store | None = None,
    *,
    patience_s: float = 3.0,
    idle_s: float = 5.0,
) -> list[Route]:
    """The routes of the Responses API.

    Args:
        service: what makes the answers.
        seal: seals reasoning; give replicas that serve the same clients the same. By default one of its own.
        store: keeps responses; by default one of its own.
        patience_s: seconds that a stream waits for the first token, and with it for an error that is better told by a
            status, before it begins without.
        idle_s: seconds of silence that are filled with a comment.
    """
    responses = Responses(service, seal or Seal(), store or Store(), patience_s, idle_s)
    one = "/v1/responses/{response_id}"
    return [
        Route("/v1/responses", responses.create, methods=["POST"]),
        Route("/v1/responses/input_tokens", responses.count, methods=["POST"]),
        Route(one, responses.retrieve, methods=["GET"]),
        Route(one, responses.delete, methods=["DELETE"]),
        Route(f"{one}/cancel", responses.cancel, methods=["POST"]),
        Route(f"{one}/input_items", responses.input_items, methods=["GET"]),
    ]


class Responses:
    """The handlers. They raise `ApiError`, which the application renders in this API's words."""

    def __init__(self, service: Service, seal: Seal, store: Store, patience_s: float, idle_s: float) -> None:
        self._service, self._seal, self._store = service, seal, store
        self._patience_s, self._idle_s = patience_s, idle_s
        self._background = Background()

    async def create(self, request: Request) -> Response:
        """Continue a conversation: streaming, whole, or in the background."""
        body = await read(request, schema.CreateResponse)
        _check(body)
        self._service.card.check(body.model)
        tenant = _tenant(request)
        earlier, items = self._store.chain(body.previous_response_id, tenant), normal(body.input)
        toolbox = toolbox_of(body, [*earlier, *items])
        options = self._options(body, request)
        asked = conversation(body, earlier, items, toolbox, options, self._seal)
        response = opening(body, f"resp_{secrets.token_hex(16)}", int(time.time()), options.sampling)
        sealed = body.store is False or _SEALED in (body.include or ())
        summary = response["reasoning"]["summary"] is not None
        encoder = Encoder(response, toolbox, summary, self._seal if sealed else None, self._service.token_bytes)
        try:
            prepared = await self._service.prepare_chat(asked)
        except ApiError as error:
            if error.kind != "context_length" or not body.stream:
                raise
            # Agents compact a conversation that has become too long when a stream tells them, not a status.
            return self._stream(_failure(encoder, error), encoder)
        store = self._store if body.store is not False else None
        job = Job(prepared=prepared, encoder=encoder, tenant=tenant, items=items, store=store)
        if body.background:
            return _json(self._background.begin(job, self._service))
        if body.stream:
            return self._stream(job.stream(self._service, self._patience_s), encoder)
        return _json(await unless_gone(request, job.whole(self._service)))

    async def count(self, request: Request) -> Response:
        """How many tokens the prompt of the same request to `create` would have."""
        body = await read(request, schema.CountInput)
        self._service.card.check(body.model)
        earlier, items = self._store.chain(body.previous_response_id, _tenant(request)), normal(body.input)
        options = Options(sampling=self._service.sampling())
        asked = conversation(body, earlier, items, toolbox_of(body, [*earlier, *items]), options, self._seal)
        return _json({"object": "response.input_tokens", "input_tokens": await self._service.count(asked)})

    async def retrieve(self, request: Request) -> Response:
        """A response that is stored or being made in the background."""
        if request.query_params.get("stream") == "true":
            message = "`stream` is not supported here: a stored response can only be had whole."
            raise ApiError("invalid", message, param="stream")
        response_id, tenant = request.path_params["response_id"], _tenant(request)
        running = self._background.find(response_id, tenant)
        return _json(running) if running else _raw(self._store.get(response_id, tenant).response)

    async def delete(self, request: Request) -> Response:
        """Forget a response."""
        response_id, tenant = request.path_params["response_id"], _tenant(request)
        await self._background.cancel(response_id, tenant)
        self._store.delete(response_id, tenant)
        return _json({"id": response_id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """End a response that is being made in the background; one that is complete is left as it is."""
        response_id, tenant = request.path_params["response_id"], _tenant(request)
        await self._background.cancel(response_id, tenant)
        stored = self._store.get(response_id, tenant).response
        if not msgspec.json.decode(stored)["background"]:
            message = "Only a response with `background` can be cancelled; others end when their connection is closed."
            raise ApiError("invalid", message, param="response_id")
        return _raw(stored)

    async def input_items(self, request: Request) -> Response:
        """The input of a stored response, in pages."""
        stored = self._store.get(request.path_params["response_id"], _tenant(request))
        return _json(page(msgspec.json.decode(stored.items), request.query_params))

    def _stream(self, events: AsyncGenerator[bytes, None], encoder: Encoder) -> Response:
        return stream(events, on_error=lambda error: frame(encoder.fail(error)), idle_s=self._idle_s)

    def _options(self, body: schema.CreateResponse, request: Request) -> Options:
        client = getattr(request.state, "client", None)
        sampling: Sampling = self._service.sampling(
            max_tokens=body.max_output_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            min_p=body.min_p,
            seed=body.seed,
            logprobs=body.top_logprobs or (0 if _SCORED in (body.include or ()) else None),
        )
        return Options(sampling=sampling, tenant=_tenant(request), priority=client.priority if client else 0)


def _check(body: schema.CreateResponse) -> None:
    if body.background and body.stream:
        message = "`background` and `stream` exclude each other: ask for a response in the background by its id."
        raise ApiError("invalid", message, param="background")
    if body.background and body.store is False:
        message = "`background` needs `store`: a response that is not stored could not be asked for."
        raise ApiError("invalid", message, param="background")


async def _failure(encoder: Encoder, error: ApiError) -> AsyncGenerator[bytes, None]:
    yield frame([*encoder.start(), *encoder.fail(error)])


def _json(content: dict[str, object]) -> Response:
    return _raw(msgspec.json.encode(content))


def _raw(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _tenant(request: Request) -> str:
    client = getattr(request.state, "client", None)
    return client.tenant if client else ""
