"""What the answer's text must look like: `response_format`, and the extras that constrain text in other ways."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from homegrown.serve.api.openai.fields import Fields, StructuredOutputs
from homegrown.serve.conversation import Format
from homegrown.serve.errors import ApiError

_TYPES = "text, json_object or json_schema"


class JsonSchema(msgspec.Struct, kw_only=True):
    """The field of the same name in `response_format`."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True):
    """`response_format`."""

    type: str
    json_schema: JsonSchema | None = None


def read_format(fields: Fields, response_format: ResponseFormat | None = None) -> Format:
    """The one format that a request asks for.

    Raises:
        ApiError: `invalid`: it asks for several, or for one that is unknown or incomplete.
    """
    wanted = {
        "response_format": _of_response_format(response_format),
        "regex": _pattern("regex", fields.regex),
        "grammar": _pattern("lark", fields.grammar),
        "structured_outputs": _of_structured_outputs(fields.structured_outputs),
    }
    found = {name: one for name, one in wanted.items() if one is not None}
    if len(found) > 1:
        raise ApiError("invalid", f"Fields {_listed(found)}: give only one of them.", param=next(iter(found)))
    return next(iter(found.values()), Format())


def _of_response_format(given: ResponseFormat | None) -> Format | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return Format(kind="json")
    if given.type != "json_schema":
        message = f"Field `response_format.type`: must be {_TYPES}, not {given.type[:40]!r}."
        raise ApiError("invalid", message, param="response_format.type")
    if given.json_schema is None or given.json_schema.schema is None:
        where = "response_format.json_schema.schema"
        raise ApiError("invalid", f"Field `{where}`: a format of type json_schema needs one.", param=where)
    return Format(kind="schema", schema=given.json_schema.schema, strict=bool(given.json_schema.strict))


def _of_structured_outputs(given: StructuredOutputs | None) -> Format | None:
    if given is None:
        return None
    where = "structured_outputs"
    wanted = {
        "json": _schema(given.json, f"{where}.json"),
        "json_object": Format(kind="json") if given.json_object else None,
        "regex": _pattern("regex", given.regex),
        "choice": _choice(given.choice, f"{where}.choice"),
        "grammar": _pattern("lark", given.grammar),
    }
    found = {name: one for name, one in wanted.items() if one is not None}
    if len(found) > 1:
        raise ApiError("invalid", f"Field `{where}`: has {_listed(found)}; give only one of them.", param=where)
    return next(iter(found.values()), None)


def _pattern(kind: Any, pattern: str | None) -> Format | None:
    return None if pattern is None else Format(kind=kind, pattern=pattern)


def _choice(texts: list[str] | None, where: str) -> Format | None:
    if texts is None:
        return None
    if not texts:
        raise ApiError("invalid", f"Field `{where}`: needs at least one text to choose from.", param=where)
    # a string of Lark is written as one of JSON
    return Format(kind="lark", pattern="start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts))


def _schema(given: dict[str, Any] | str | None, where: str) -> Format | None:
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = msgspec.json.decode(given)
        except (msgspec.DecodeError, RecursionError):
            given = None
    if not isinstance(given, dict):
        raise ApiError("invalid", f"Field `{where}`: must be a JSON schema or the text of one.", param=where)
    return Format(kind="schema", schema=given)


def _listed(found: dict[str, Format]) -> str:
    return " and ".join(f"`{name}`" for name in found)
