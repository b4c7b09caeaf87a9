"""Grammars for answers: made from JSON schemas and regexes, compiled under limits, followed token by token.

Imports no torch, so that the HTTP process can refuse a bad grammar before the engine sees it.
"""

from homegrown.serve.grammar.compiler import GrammarCompiler, check_grammar
from homegrown.serve.grammar.errors import GrammarError
from homegrown.serve.grammar.forms import grammar_from_regex, grammar_from_schema, regex_term, schema_rule
from homegrown.serve.grammar.matcher import Matcher

__all__ = [
    "GrammarCompiler",
    "GrammarError",
    "Matcher",
    "check_grammar",
    "grammar_from_regex",
    "grammar_from_schema",
    "regex_term",
    "schema_rule",
]
