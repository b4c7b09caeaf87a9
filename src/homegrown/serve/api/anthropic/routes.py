"""`/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from homegrown.serve.api.anthropic import schema
from homegrown.serve.api.anthropic.decode import conversation
from homegrown.serve.api.anthropic.encode import PING, Asked, Encoder, frame
from homegrown.serve.api.anthropic.fold import Fold
from homegrown.serve.api.body import read
from homegrown.serve.api.patience import patient
from homegrown.serve.api.seal import Seal
from homegrown.serve.conversation import Conversation, Options
from homegrown.serve.errors import ApiError
from homegrown.serve.http.gone import unless_gone
from homegrown.serve.http.sse import stream
from homegrown.serve.service import Prepared, Service


def routes(service: Service, seal: Seal | None = None, *, patience_s: float = 3.0, idle_s: float = 5.0) -> list[Route]:
    """The routes of the Messages API.

    Args:
        service: what makes the answers.
        seal: signs thinking; give replicas that serve the same clients the same. By default one of its own.
        patience_s: seconds that a stream waits for the first token, and with it for the figures of the cache and for an
            error that is better told by a status, before it begins without.
        idle_s: seconds of silence that are filled with a ping.
    """
    messages = Messages(service, seal or Seal(), patience_s, idle_s)
    return [
        Route("/v1/messages", messages.create, methods=["POST"]),
        Route("/v1/messages/count_tokens", messages.count, methods=["POST"]),
    ]


class Messages:
    """The handlers. They raise `ApiError`, which the application renders in this API's words."""

    def __init__(self, service: Service, seal: Seal, patience_s: float, idle_s: float) -> None:
        self._service, self._seal, self._patience_s, self._idle_s = service, seal, patience_s, idle_s

    async def create(self, request: Request) -> Response:
        """Continue a conversation, streaming or not."""
        body = await read(request, schema.CreateMessage)
        self._service.card.check(body.model)
        asked_for = conversation(body, self._options(body, request), self._seal)
        prepared = await self._prepare(asked_for)
        request_id = request_id_of(request)
        thinking = body.thinking
        asked = Asked(
            model=body.model,
            prompt_tokens=prepared.prompt_tokens,
            silent=body.max_tokens == 0,
            narrow=prepared.requests[0].sampling.max_tokens < min(body.max_tokens, self._service.card.max_output),
            show_thinking=thinking is None or thinking.display != "omitted",
            request_id=request_id,
        )
        encoder, headers = Encoder(asked, self._seal), {"request-id": request_id}
        if not body.stream:
            message = await unless_gone(request, self._whole(prepared, encoder))
            return Response(msgspec.json.encode(message), media_type="application/json", headers=headers)
        return stream(
            self._events(prepared, encoder),
            on_error=lambda error: frame(encoder.fail(error)),
            idle=frame([PING]),
            idle_s=self._idle_s,
            headers=headers,
        )

    async def count(self, request: Request) -> Response:
        """How many tokens the prompt of the same request to `create` would have."""
        body = await read(request, schema.CountTokens)
        self._service.card.check(body.model)
        options = Options(sampling=self._service.sampling())
        tokens = await self._service.count(conversation(body, options, self._seal))
        return JSONResponse({"input_tokens": tokens}, headers={"request-id": request_id_of(request)})

    async def _prepare(self, asked_for: Conversation) -> Prepared:
        try:
            return await self._service.prepare_chat(asked_for)
        except ApiError as error:
            if error.kind != "context_length":
                raise
            # Agents recognise these words and compact the conversation.
            message = f"prompt is too long: {await self._how_long(asked_for, error)}"
            raise ApiError(error.kind, message, param="messages") from None

    async def _how_long(self, asked_for: Conversation, error: ApiError) -> str:
        try:
            tokens = await self._service.count(asked_for)
        except ApiError:  # so long that nobody counts
            return error.message
        return f"{tokens} tokens > {self._service.card.context_length - 1} maximum"

    async def _whole(self, prepared: Prepared, encoder: Encoder) -> dict[str, object]:
        fold = Fold()
        async with aclosing(self._service.events(prepared)) as events:
            async for event in events:
                fold.add(encoder.push(event))
        return fold.message

    async def _events(self, prepared: Prepared, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        async with aclosing(patient(self._service.events(prepared), self._patience_s)) as events:
            async for event in events:
                wires = encoder.start() if event is None else encoder.push(event)
                if wires:
                    yield frame(wires)

    def _options(self, body: schema.CreateMessage, request: Request) -> Options:
        if body.max_tokens < 0:
            raise ApiError("invalid", f"`max_tokens` is {body.max_tokens}: it must be 0 or more.", param="max_tokens")
        client = getattr(request.state, "client", None)
        return Options(
            sampling=self._service.sampling(
                max_tokens=max(body.max_tokens, 1),
                temperature=body.temperature,
                top_p=body.top_p,
                top_k=body.top_k,
                seed=body.seed,
            ),
            stop=tuple(body.stop_sequences or ()),
            tenant=client.tenant if client else "",
            priority=client.priority if client else 0,
        )


def request_id_of(request: Request) -> str:
    """The id by which server and client know a request."""
    return getattr(request.state, "request_id", None) or f"req_{secrets.token_hex(12)}"
