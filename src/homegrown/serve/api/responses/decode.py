"""A request of the Responses API as a `Conversation`."""

from __future__ import annotations

from homegrown.serve.api.responses import schema
from homegrown.serve.api.responses.items import Turns, added_tools
from homegrown.serve.api.responses.tools import Toolbox
from homegrown.serve.api.seal import Seal
from homegrown.serve.conversation import Conversation, Format, Options
from homegrown.serve.errors import ApiError

_WITHOUT_THINKING = ("none", "minimal")


def toolbox_of(body: schema.CountInput, items: schema.Items) -> Toolbox:
    """The tools of a request and of its input."""
    return Toolbox([*(body.tools or ()), *added_tools(items)])


def conversation(
    body: schema.CountInput, earlier: schema.Items, items: schema.Items, toolbox: Toolbox, options: Options, seal: Seal
) -> Conversation:
    """What the service is asked.

    Args:
        body: the request.
        earlier: the items of the responses that it goes on from.
        items: its own, in the form of `items.normal`.
        toolbox: of `toolbox_of`.
        options: how the answer is made.
        seal: opens reasoning that this server sealed.

    Raises:
        ApiError: `invalid`: something is missing or does not fit; `param` names it.
    """
    _refuse_unknown_places(body)
    turns = Turns(seal)
    if body.instructions:
        turns.add_system(body.instructions)
    turns.add_all(earlier, "previous_response_id")
    turns.add_all(items)
    if all(turn["role"] == "system" for turn in turns.turns):
        raise ApiError("invalid", "`input` must have at least one message of the user.", param="input")
    effort = body.reasoning.effort if body.reasoning else None
    return Conversation(
        messages=turns.turns,
        options=options,
        tools=toolbox.tools,
        choice=toolbox.choice(body.tool_choice, body.parallel_tool_calls),
        format=_format(body.text.format if body.text else None),
        thinking=None if effort is None else effort not in _WITHOUT_THINKING,
        template={"reasoning_effort": effort} if effort else {},
    )


def _format(given: schema.TextFormat | None) -> Format:
    if given is None or given.type == "text":
        return Format()
    if given.type == "json_object":
        return Format(kind="json")
    if given.type != "json_schema":
        message = f"`text.format.type` is {given.type!r}: it must be 'text', 'json_object' or 'json_schema'."
        raise ApiError("invalid", message, param="text.format.type")
    if given.schema is None:
        message = "`text.format.schema` is missing: a format of type 'json_schema' must have one."
        raise ApiError("invalid", message, param="text.format.schema")
    return Format(kind="schema", schema=given.schema, strict=bool(given.strict))


def _refuse_unknown_places(body: schema.CountInput) -> None:
    """Parts of the prompt that are said to lie on a server that this is not."""
    if body.conversation is not None:
        message = "`conversation` is not supported: send the items in `input`, or go on from `previous_response_id`."
        raise ApiError("invalid", message, param="conversation")
    if body.prompt is not None:
        message = "`prompt` is not supported: send its text in `instructions` or `input`."
        raise ApiError("invalid", message, param="prompt")
