"""Ranges of what clients may set, with messages that name the field as the OpenAI API does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from homegrown.serve.conversation import Format, Options, Tool, ToolChoice
from homegrown.serve.errors import ApiError
from homegrown.serve.messages import Sampling

MAX_ANSWERS = 128
MAX_STOPS = 32
MAX_STOP_CHARACTERS = 1000
MAX_STOP_IDS = 256
MAX_BIASES = 4096
MAX_LOGPROBS = 20
MAX_TOOLS = 1024
MAX_SCHEMA_CHARACTERS = 500_000
MAX_PATTERN_CHARACTERS = 100_000

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, 10.0),
}
_POSITIVE = ("top_p", "repetition_penalty")


def check_options(options: Options, vocab_size: int) -> None:
    """Check what chat and plain completions share.

    Args:
        options: as they came.
        vocab_size: token ids are below this.

    Raises:
        ApiError: `invalid`, with the field.
    """
    check_sampling(options.sampling, vocab_size)
    _require(1 <= options.answers <= MAX_ANSWERS, "n", options.answers, f"must be 1 to {MAX_ANSWERS}")
    _require(len(options.stop) <= MAX_STOPS, "stop", f"{len(options.stop)} texts", f"at most {MAX_STOPS} are allowed")
    for stop in options.stop:
        _require(stop != "", "stop", "''", "an empty text would stop everywhere")
        length = len(stop)
        _require(length <= MAX_STOP_CHARACTERS, "stop", f"{length} characters", f"at most {MAX_STOP_CHARACTERS}")
        _require(_is_unicode(stop), "stop", "a text", "holds a lone surrogate, which is no Unicode character")


def check_sampling(sampling: Sampling, vocab_size: int) -> None:
    """Check how tokens are to be chosen.

    Raises:
        ApiError: `invalid`, with the field.
    """
    for name, (low, high) in _RANGES.items():
        value = getattr(sampling, name)
        _require(math.isfinite(value) and low <= value <= high, name, value, f"must be from {low:g} to {high:g}")
        _require(value > 0 or name not in _POSITIVE, name, value, "must be above 0")
    _require(sampling.max_tokens >= 1, "max_tokens", sampling.max_tokens, "must be at least 1")
    _require(sampling.top_k >= 0, "top_k", sampling.top_k, "must be at least 0, where 0 keeps all tokens")
    _require(-(2**63) <= sampling.seed < 2**63, "seed", sampling.seed, "must be a 64-bit integer")
    least = sampling.min_tokens
    _require(0 <= least <= sampling.max_tokens, "min_tokens", least, f"must be 0 to max_tokens, {sampling.max_tokens}")
    for name in ("logprobs", "prompt_logprobs"):
        value = getattr(sampling, name)
        field = "top_logprobs" if name == "logprobs" else name
        _require(-1 <= value <= MAX_LOGPROBS, field, value, f"must be 0 to {MAX_LOGPROBS}")
    _check_biases(sampling.logit_bias, vocab_size)
    count = len(sampling.stop_ids)
    _require(count <= MAX_STOP_IDS, "stop_token_ids", f"{count} ids", f"at most {MAX_STOP_IDS} are allowed")
    for token in sampling.stop_ids:
        _require(0 <= token < vocab_size, "stop_token_ids", token, f"the model's token ids are 0 to {vocab_size - 1}")


def check_tools(tools: Sequence[Tool], choice: ToolChoice) -> None:
    """Check declared tools and which of them are to be called.

    Raises:
        ApiError: `invalid`, with the field.
    """
    _require(len(tools) <= MAX_TOOLS, "tools", f"{len(tools)} tools", f"at most {MAX_TOOLS} are allowed")
    names = set[str]()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        good = _NAME.fullmatch(tool.name) is not None
        _require(good, f"{where}.name", repr(tool.name[:200]), "must be 1 to 128 letters, digits or any of _ - . : /")
        _require(tool.name not in names, f"{where}.name", repr(tool.name), "another tool has this name")
        names.add(tool.name)
        kind = tool.parameters.get("type", "object")
        _require(kind == "object", f"{where}.parameters", f"type {kind!r}"[:100], "must be the schema of an object")
    for name in choice.names:
        _require(name in names, "tool_choice", repr(name[:200]), "no tool with this name is declared")
    _require(choice.mode != "required" or bool(tools), "tool_choice", "'required'", "no tools are declared")


def check_format(wanted: Format) -> None:
    """Check what the answer is to look like, as far as that is possible without compiling it.

    Raises:
        ApiError: `invalid`, with the field.
    """
    if wanted.kind == "schema":
        length = _length(wanted.schema)
        _require(length > 0, "response_format", "json_schema", "has no schema")
        what = f"a schema of {length} characters"
        _require(length <= MAX_SCHEMA_CHARACTERS, "response_format", what, f"at most {MAX_SCHEMA_CHARACTERS}")
    elif wanted.kind in ("regex", "lark"):
        length = len(wanted.pattern)
        what = f"a {wanted.kind} pattern of {length} characters"
        _require(0 < length <= MAX_PATTERN_CHARACTERS, "response_format", what, f"1 to {MAX_PATTERN_CHARACTERS}")


def _length(schema: Mapping[str, Any] | None) -> int:
    """Characters of a schema as JSON; 0 if there is none."""
    try:
        return len(json.dumps(schema)) if schema is not None else 0
    except RecursionError:
        raise ApiError(
            "invalid", "response_format: the schema is nested too deeply.", param="response_format"
        ) from None


def _check_biases(biases: dict[int, float], vocab_size: int) -> None:
    count = len(biases)
    _require(count <= MAX_BIASES, "logit_bias", f"{count} tokens", f"at most {MAX_BIASES} are allowed")
    for token, bias in biases.items():
        _require(0 <= token < vocab_size, "logit_bias", token, f"the model's token ids are 0 to {vocab_size - 1}")
        _require(math.isfinite(bias) and -100 <= bias <= 100, "logit_bias", bias, "must be from -100 to 100")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _require(ok: bool, field: str, value: object, message: str) -> None:
    if not ok:
        raise ApiError("invalid", f"{field} = {value}: {message}.", param=field)
