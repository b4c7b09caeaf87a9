"""A request of the Messages API as a `Conversation`."""

from __future__ import annotations

from typing import Any

from homegrown.serve.api.anthropic import schema
from homegrown.serve.api.anthropic.tools import choice, offered
from homegrown.serve.api.anthropic.turns import Turns
from homegrown.serve.api.seal import Seal
from homegrown.serve.conversation import Conversation, Format, Options
from homegrown.serve.errors import ApiError


def conversation(body: schema.CountTokens, options: Options, seal: Seal) -> Conversation:
    """What the service is asked.

    Raises:
        ApiError: `invalid`: something is missing or does not fit; `param` names it.
    """
    _check_messages(body.messages)
    turns = Turns(seal)
    turns.add_system(body.system, "system")
    turns.add_all(body.messages)
    tools = offered(body)
    effort = body.output_config.effort if body.output_config else None
    return Conversation(
        messages=turns.turns,
        options=options,
        tools=tools,
        choice=choice(body.tool_choice, tools),
        format=_format(body),
        thinking=thinks(body.thinking, effort),
        template=_template(effort),
    )


def thinks(thinking: schema.Thinking | None, effort: str | None) -> bool:
    """Whether the model is to reason. It is not unless it is asked to: a client that did not ask does not expect
    thinking blocks, and may allow too few tokens for them. With `adaptive` the effort decides."""
    if thinking is None or thinking.type == "disabled":
        return False
    return thinking.type != "adaptive" or effort != "low"


def _template(effort: str | None) -> dict[str, Any]:
    return {"reasoning_effort": effort} if effort else {}


def _format(body: schema.CountTokens) -> Format:
    wanted = (body.output_config.format if body.output_config else None) or body.output_format
    if wanted is None or wanted.type == "text":
        return Format()
    if wanted.type != "json_schema":
        message = f"`output_config.format.type` is {wanted.type!r}: it must be 'json_schema'."
        raise ApiError("invalid", message, param="output_config.format.type")
    if wanted.schema is None:
        message = "`output_config.format.schema` is missing: a format of type 'json_schema' must have one."
        raise ApiError("invalid", message, param="output_config.format.schema")
    return Format(kind="schema", schema=wanted.schema)


def _check_messages(messages: list[schema.Message]) -> None:
    if not any(message.role != "system" for message in messages):
        message = "`messages` must have at least one message of the user."
        raise ApiError("invalid", message, param="messages")
    if messages[-1].role == "assistant":
        raise ApiError(
            "invalid",
            "`messages` ends with a turn of the assistant: this server does not go on with a prefilled answer, so the "
            "last message must be the user's.",
            param="messages",
        )
