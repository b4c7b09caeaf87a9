"""JSON schemas and regexes as Lark text, whole or as parts of larger grammars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark

from homegrown.serve.grammar.errors import GrammarError

_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
"""Between the parts of a JSON text. Bounded, since a model that falls into writing blanks would else never leave it;
wide enough for eight spaces of indentation at any depth a schema may have."""


def schema_rule(schema: Mapping[str, Any] | bool, *, lenient: bool = False) -> str:
    """The right side of a rule that matches the JSON texts a schema describes: `%json {...}`.

    `oneOf` is taken as `anyOf`: a grammar cannot tell that exactly one of several holds.

    Args:
        schema: JSON Schema; references stay within it, nothing is ever fetched.
        lenient: leave out keywords that a grammar cannot express. Otherwise they are errors, of `check_grammar`.

    Raises:
        GrammarError: the schema is not JSON.
    """
    if not isinstance(schema, bool | Mapping):
        raise GrammarError(f"schema: must be an object or a boolean, not {type(schema).__name__}")
    if schema is False:
        raise GrammarError("schema: false: it matches nothing, so no answer could be given")
    options = {"coerce_one_of": True, "lenient": lenient, "whitespace_pattern": _WHITESPACE}
    table = {**({} if schema is True else schema), "x-guidance": options}
    try:
        # Escaped to ASCII, so that no text in the schema can end the line or the rule.
        return "%json " + json.dumps(table, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GrammarError(f"schema: not JSON: {error}") from None
    except RecursionError:
        raise GrammarError("schema: nested too deeply") from None


def grammar_from_schema(schema: Mapping[str, Any] | bool, *, lenient: bool = False) -> str:
    """A grammar of the JSON texts that a schema describes; arguments and errors as for `schema_rule`."""
    return f"start: {schema_rule(schema, lenient=lenient)}"


def regex_term(regex: str) -> str:
    r"""A regex as a term of a rule: `/.../`.

    Args:
        regex: matched against the whole answer, with or without `^` and `$`; `\d` is ASCII digits only. Neither
            look-around nor back-references.

    Raises:
        GrammarError: it is empty.
    """
    if not regex:
        raise GrammarError("regex: empty: it matches only an empty answer")
    return f"/{regex_to_lark(regex, 'd')}/"


def grammar_from_regex(regex: str) -> str:
    """A grammar of the texts that a regex matches as a whole; arguments and errors as for `regex_term`."""
    return f"start: {regex_term(regex)}"
