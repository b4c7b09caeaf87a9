"""Grammars of answers, in llguidance's dialect of Lark: what must be written when the client leaves no choice.

They describe what `Reader` reads. Arguments come in the order of the tool's schema, those that are not required may be
left out, and each value is held to its schema: strings as they are, up to the closing tag, anything else as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homegrown.serve.conversation import Format, Tool
from homegrown.serve.grammar import GrammarError, grammar_from_regex, grammar_from_schema, regex_term, schema_rule
from homegrown.serve.parse.tags import CALL, END_CALL, END_KEY, END_VALUE, KEY, VALUE
from homegrown.serve.parse.values import properties, types_of

_ANY = "(?s:.*)"
_TEXT = f"/{_ANY}/"
"""Any text; it never matches a special token."""
_KEY = r"/[^{<\s][^<\n]*/"
_DEFINITIONS = ("$defs", "definitions")
_ANYTHING = {"type": "object"}


def format_grammar(wanted: Format) -> str:
    """The grammar of a response format; empty for plain text.

    Raises:
        GrammarError: there can be none.
    """
    if wanted.kind == "json":
        return grammar_from_schema(_ANYTHING)
    if wanted.kind == "schema":
        return grammar_from_schema(wanted.schema or {}, lenient=not wanted.strict)
    if wanted.kind == "regex":
        return grammar_from_regex(wanted.pattern)
    return wanted.pattern if wanted.kind == "lark" else ""


def chat_grammar(
    wanted: Format, tools: Sequence[Tool], *, required: bool, parallel: bool, lead: str, tags: bool
) -> str:
    """The grammar of an assistant's turn behind its thinking; empty if it may be anything.

    Args:
        wanted: what text must look like.
        tools: those that may be called.
        required: one of them must be.
        parallel: several calls in one turn.
        lead: what stands between thinking and answer.
        tags: arguments are written in tags, as newer checkpoints do; otherwise a call is one JSON object.

    Raises:
        GrammarError: there can be none.
    """
    if wanted.kind == "lark" and tools:
        raise GrammarError("grammar: a Lark grammar cannot be combined with tools; set tool_choice to 'none'")
    if wanted.kind == "lark":
        return wanted.pattern
    if not required and wanted.kind == "text" and not any(tool.strict for tool in tools):
        return ""
    calls = "call+" if parallel else "call"
    if required:
        answer = calls
    elif wanted.kind == "text":
        answer = f"{_TEXT} ({calls})?"
    else:
        answer = f"content | {calls}" if tools else "content"
    rules = [f"start: {json.dumps(lead)} answer" if lead else "start: answer", f"answer: {answer}"]
    if not required and wanted.kind != "text":
        rules.append(f"content: {format_grammar(wanted).removeprefix('start: ')}")
    if tools:
        write = _tagged if tags else _object
        rules.append(f"call: {' | '.join(f'call_{number}' for number in range(len(tools)))}")
        rules += [rule for number, tool in enumerate(tools) for rule in write(tool, f"call_{number}")]
    return "\n".join(rules)


def _object(tool: Tool, name: str) -> list[str]:
    """`{"name": ..., "arguments": {...}}`."""
    arguments = dict(tool.parameters) or _ANYTHING
    fields = {"name": {"const": tool.name}, "arguments": _without_definitions(arguments)}
    table = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    value = schema_rule({**table, **_definitions(arguments)}, lenient=not tool.strict)
    return [f"{name}: {CALL} {name}_object {END_CALL} /\\n?/", f"{name}_object: {value}"]


def _tagged(tool: Tool, name: str) -> list[str]:
    """A name, and keys and values in tags."""
    declared = properties(tool.parameters)
    required = tool.parameters.get("required")
    needed = set(required) if isinstance(required, list) else set[str]()
    pairs, rules = [], []
    for number, (key, schema) in enumerate(declared.items()):
        rule = f"{name}_{number}"
        pairs.append(rule if key in needed else f"{rule}?")
        value = _checked(tool, key, lambda schema=schema: _value(schema, tool))  # type: ignore[misc]
        rules += [f"{rule}: {_pair(json.dumps(key), f'{rule}_value')}", f"{rule}_value: {value}"]
    if not declared and tool.parameters.get("additionalProperties") is not False:
        pairs.append(f"{name}_any*")
        rules.append(f"{name}_any: {_pair(_KEY, _TEXT)}")
    opening = json.dumps(f"{tool.name}\n")
    return [f"{name}: {CALL} {opening} {' '.join(pairs)} {END_CALL} /\\n?/", *rules]


def _pair(key: str, value: str) -> str:
    return f'{KEY} {key} {END_KEY} "\\n" {VALUE} {value} {END_VALUE} "\\n"'


def _value(schema: Any, tool: Tool) -> str:
    """The right side of the rule of a value, which is read as `values.kind` says."""
    types = types_of(schema, tool.parameters)
    if "string" not in types and types:
        return schema_rule({**schema, **_definitions(tool.parameters, schema)}, lenient=not tool.strict)
    if not isinstance(schema, Mapping):
        return _TEXT
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values:
        texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
        return " | ".join(json.dumps(text) for text in texts)
    if isinstance(pattern := schema.get("pattern"), str):
        return regex_term(_anywhere(pattern))
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    bounded = isinstance(least, int) and (isinstance(most, int) or not most) and (least or most != "")
    return f"/(?s:.{{{least},{most}}})/" if bounded else _TEXT


def _anywhere(pattern: str) -> str:
    """A schema's pattern, which may match anywhere in a text, as one that matches the whole text."""
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begins : len(pattern) - ends]
    return f"{'' if begins else _ANY}({inner}){'' if ends else _ANY}"


def _checked(tool: Tool, key: str, make: Callable[[], str]) -> str:
    try:
        return make()
    except GrammarError as error:
        raise GrammarError(f"tool {tool.name}, argument {key[:100]!r}: {error}") from None


def _definitions(schema: Mapping[str, Any], part: Any = None) -> dict[str, Any]:
    """The definitions of a schema that this part of it may refer to."""
    if part is not None and '"$ref"' not in json.dumps(part):
        return {}
    return {name: schema[name] for name in _DEFINITIONS if name in schema}


def _without_definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in _DEFINITIONS}
