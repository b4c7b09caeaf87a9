"""Argument values as text, typed by the tool's JSON schema."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from homegrown.serve.parse.jsontext import escape, read_value
from homegrown.serve.parse.source import Source, run_through

Kind = Literal["text", "nullable", "data"]
"""A string, whose text is taken as it is; a string or null; anything else, written as JSON."""

_LITERAL_LIMIT = 10_000
"""Characters up to which a value is tried as a Python literal: Python's parser is not made for more."""


def kind(schema: Mapping[str, Any], key: str) -> Kind:
    """How the value of an argument is written.

    Args:
        schema: of the tool's parameters.
        key: the argument.
    """
    types = types_of(properties(schema).get(key), schema)
    if "string" not in types:
        return "data"
    return "nullable" if "null" in types else "text"


def properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments that a schema declares, and their schemas."""
    declared = schema.get("properties")
    return declared if isinstance(declared, Mapping) else {}


def as_json(text: str) -> str:
    """A value that is not declared to be a string, as JSON: it is JSON, or a Python literal, or else text."""
    return _json(text) or _literal(text.strip()) or f'"{escape(text)}"'


def _json(text: str) -> str:
    """JSON, mended where it is nearly that; empty where it is not."""
    source, pieces = Source(text, ended=True), list[str]()
    whole = run_through(read_value(source, pieces.append)) and not run_through(source.space())
    return "".join(pieces) if whole else ""


def _literal(text: str) -> str:
    """A Python literal as JSON; empty where it is none, or none that JSON can say."""
    if not text or len(text) > _LITERAL_LIMIT:
        return ""
    try:
        with warnings.catch_warnings(action="ignore"):
            value = ast.literal_eval(text)
        return _json(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""


def types_of(schema: Any, root: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema, a part of `root`, allows, as far as it names them."""
    found: set[str] = set()
    waiting, seen = [schema], set[int]()
    while waiting:
        part = waiting.pop()
        # References may go in circles, and unions of them would otherwise be walked again and again.
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        named = part.get("type")
        if isinstance(reference := part.get("$ref"), str):
            waiting.append(_resolve(reference, root))
        elif named is not None:
            found |= {name for name in (named if isinstance(named, list) else [named]) if isinstance(name, str)}
        elif "const" in part:
            found.add(_type_of(part["const"]))
        elif isinstance(values := part.get("enum"), list):
            found |= {_type_of(value) for value in values}
        else:
            branches = (part.get(word) for word in ("anyOf", "oneOf", "allOf"))
            waiting += [branch for several in branches if isinstance(several, list) for branch in several]
    return found


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    return "string" if isinstance(value, str) else "other"


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference within the same schema points to; None for any other."""
    if not reference.startswith("#/"):
        return None
    place: Any = root
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        place = place.get(name) if isinstance(place, Mapping) else None
    return place
