"""Conversations to text: a checkpoint's own Jinja template in a sandbox, with what templates expect to find there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from homegrown.tokenizer.errors import TokenizerError


def render(template: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """Render `messages` with a chat template.

    Args:
        template: Jinja source, untrusted: it runs in an immutable sandbox.
        messages: role, content, and by role reasoning_content, tool_calls, name. Tool-call arguments may be a mapping
            or, as clients of the OpenAI API send them, JSON text of one.
        variables: everything else the template sees (tools, add_generation_prompt, bos_token, ...).

    Raises:
        TokenizerError: the template or the messages are wrong; the message says how.
    """
    messages = [with_decoded_arguments(message, index) for index, message in enumerate(messages)]
    try:
        return compiled(template).render(messages=messages, **variables)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise TokenizerError(f"chat template: {error}") from error


@lru_cache(maxsize=16)
def compiled(template: str) -> Template:
    """The template, compiled once, in an environment equal to that of `transformers`.

    Raises:
        TemplateError: the source is not Jinja.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters, which models were not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def with_decoded_arguments(message: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """The message number `index` with the arguments of its tool calls as values, where they were JSON text.

    Raises:
        TokenizerError: they are not JSON.
    """
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_decoded_call(call, f"messages[{index}]") for call in calls]}


def _decoded_call(call: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if "function" in call:
        return {**call, "function": _decoded_call(call["function"], where)}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        return {**call, "arguments": json.loads(arguments or "{}")}
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{where}: arguments of the call of {call.get('name')!r} are not JSON: {error}") from None
