"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from homegrown.serve.api import body
from homegrown.serve.api.openai import errors
from homegrown.serve.api.openai.chat_answer import encode_answers
from homegrown.serve.api.openai.chat_stream import ChatEncoder
from homegrown.serve.api.openai.chunks import chunks
from homegrown.serve.api.openai.fields import Fields, options
from homegrown.serve.api.openai.formats import ResponseFormat, read_format
from homegrown.serve.api.openai.head import Head, fingerprint
from homegrown.serve.api.openai.messages import Message, read_messages
from homegrown.serve.api.openai.tools import (
    Choice,
    Declaration,
    Function,
    read_choice,
    read_function_call,
    read_tools,
)
from homegrown.serve.collect import collect
from homegrown.serve.conversation import Conversation, Tool, ToolChoice
from homegrown.serve.errors import ApiError
from homegrown.serve.http.gone import unless_gone
from homegrown.serve.http.sse import stream
from homegrown.serve.service import Service

ReasoningField = Literal["reasoning_content", "reasoning"]
"""The name under which clients find the model's thinking. Those that ask with `reasoning` find it there in any case."""


class Reasoning(msgspec.Struct, kw_only=True):
    """`reasoning`, as the OpenRouter marketplace has it."""

    enabled: bool | None = None
    effort: str | None = None
    max_tokens: int | None = None
    exclude: bool | None = None


class Thinking(msgspec.Struct, kw_only=True):
    """`thinking`, as several providers of reasoning models have it."""

    type: str | None = None


class ChatBody(Fields, kw_only=True):
    """The body of a request. What is not listed is ignored."""

    messages: list[Message]
    function_call: str | dict[str, Any] | None = None
    functions: list[Function] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    modalities: list[str] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    tool_choice: str | Choice | None = None
    tools: list[Declaration] | None = None
    top_logprobs: int | None = None

    chat_template_kwargs: dict[str, Any] | None = None
    compute: bool | None = None
    enable_thinking: bool | None = None
    include_reasoning: bool | None = None
    reasoning: Reasoning | None = None
    thinking: Thinking | None = None

    @property
    def legacy(self) -> bool:
        """Whether calls are asked for in the older form, as `functions`."""
        return self.tools is None and self.functions is not None


class ChatCompletions:
    """The route.

    Args:
        service: answers.
        reasoning: the field of answers that has the thinking.
    """

    def __init__(self, service: Service, reasoning: ReasoningField = "reasoning_content") -> None:
        self._service, self._reasoning = service, reasoning
        self._fingerprint = fingerprint(service)

    async def answer(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            ApiError: it is not carried out.
        """
        service, chat = self._service, await body.read(request, ChatBody)
        if chat.model is not None:
            service.card.check(chat.model)
        prepared = await service.prepare_chat(conversation(request, chat, service))
        kind = "chat.completion.chunk" if chat.stream else "chat.completion"
        head = Head.new("chatcmpl", kind, chat.model or service.card.id, self._fingerprint)
        shown: dict[str, Any] = {
            "reasoning": _reasoning_fields(chat, self._reasoning),
            "token_bytes": service.token_bytes if chat.logprobs else None,
            "legacy": chat.legacy,
            "compute": bool(chat.compute),
        }
        if chat.stream:
            encoder = ChatEncoder(head, usage=chat.wants_usage, answers=chat.answers, **shown)
            return stream(chunks(service.events(prepared), encoder), on_error=errors.event)
        answers = await unless_gone(request, collect(service.events(prepared)))
        return Response(encode_answers(head, answers, **shown), media_type="application/json")


def conversation(request: Request, chat: ChatBody, service: Service) -> Conversation:
    """A request as the service understands it.

    Raises:
        ApiError: `invalid`: fields contradict each other, or have values that are not among the known ones.
    """
    if chat.modalities is not None and chat.modalities != ["text"]:
        raise ApiError(
            "invalid", 'Field `modalities`: must be ["text"]; the model makes nothing else.', param="modalities"
        )
    if chat.top_logprobs and not chat.logprobs:
        raise ApiError("invalid", "Field `top_logprobs`: needs `logprobs` to be true.", param="top_logprobs")
    wanted = chat.max_tokens if chat.max_completion_tokens is None else chat.max_completion_tokens
    logprobs = (chat.top_logprobs or 0) if chat.logprobs else -1
    tools, choice = _tools(chat)
    switches = dict(chat.chat_template_kwargs or {})
    return Conversation(
        messages=read_messages(chat.messages),
        options=options(request, chat, service, wanted, logprobs=logprobs),
        tools=tools,
        choice=choice,
        format=read_format(chat, chat.response_format),
        thinking=_thinking(chat, _switch(switches, "enable_thinking")),
        keep_reasoning=_switch(switches, "save_reasoning_content", "save_history_reasoning_content"),
        template=switches,
    )


def _tools(chat: ChatBody) -> tuple[tuple[Tool, ...], ToolChoice]:
    if chat.legacy:
        return tuple(function.tool for function in chat.functions or ()), read_function_call(chat.function_call)
    return read_tools(chat.tools), read_choice(chat.tool_choice, chat.parallel_tool_calls)


def _switch(switches: dict[str, Any], *names: str) -> bool | None:
    """Take a variable of the template that the service has a field for, by any of its names."""
    result = None
    for name in names:
        value = switches.pop(name, None)
        if value is not None and not isinstance(value, bool):
            where = f"chat_template_kwargs.{name}"
            raise ApiError("invalid", f"Field `{where}`: must be true or false.", param=where)
        result = value if result is None else result
    return result


def _thinking(chat: ChatBody, switch: bool | None) -> bool | None:
    """Whether to reason, from whichever of the fields says so; the most explicit one counts. How much to reason is the
    model's own decision."""
    reasoning = chat.reasoning or Reasoning()
    said = (
        switch,
        chat.enable_thinking,
        reasoning.enabled,
        None if chat.thinking is None or chat.thinking.type is None else chat.thinking.type != "disabled",
        None if reasoning.effort is None else reasoning.effort != "none",
        None if chat.reasoning_effort is None else chat.reasoning_effort != "none",
    )
    return next((word for word in said if word is not None), None)


def _reasoning_fields(chat: ChatBody, usual: ReasoningField) -> tuple[str, ...]:
    """Who asks for `reasoning` by that name finds it under that name too."""
    if chat.include_reasoning is False or (chat.reasoning and chat.reasoning.exclude):
        return ()
    asked = chat.include_reasoning or chat.reasoning is not None
    return tuple(dict.fromkeys((usual, "reasoning") if asked else (usual,)))
