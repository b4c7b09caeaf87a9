"""JSON that loses nothing: NaN and the infinities have a spelling, and every value has exactly one text.

JSON has no NaN or infinity, so they are written `{"$float": "nan"}`, `"inf"` or `"-inf"`. A key of the
caller's own that starts with `$` gets a second `$`, so the spelling cannot be confused with data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

_TAG = "$float"


def dumps(value: Any, *, sort_keys: bool) -> str:
    """`value` as one line of ASCII JSON without spaces.

    Args:
        value: None, bool, int, float, str, and lists, tuples (read back as lists) and string-keyed
            mappings of them.
        sort_keys: sorted, every equal value gives the same text; else mappings keep their order.

    Raises:
        TypeError: a value of another type; the message says where it stands.
    """
    return json.dumps(_encode(value, ""), sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)


def loads(text: bytes) -> Any:
    """The value whose text `dumps` wrote.

    Raises:
        ValueError: not ASCII, not JSON, or a spelling that `dumps` never writes.
    """
    try:
        return _decode(json.loads(text.decode("ascii"), parse_constant=_refuse))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _encode(value: Any, where: str) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_TAG: repr(float(value))}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [_encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_encode_key(key, where): _encode(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    raise TypeError(f"{where or 'the value'} is a {_name(value)}, which JSON cannot hold; convert it first")


def _encode_key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where or 'the value'} has the key {key!r}; JSON keys are strings")
    return f"${key}" if key.startswith("$") else key


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG in value:
        if value not in ({_TAG: "nan"}, {_TAG: "inf"}, {_TAG: "-inf"}):
            raise ValueError(f"{json.dumps(value)} spells no number")
        return float(value[_TAG])
    return {_decode_key(key): _decode(item) for key, item in value.items()}


def _decode_key(key: str) -> str:
    if not key.startswith("$"):
        return key
    if not key.startswith("$$"):
        raise ValueError(f"the key {key!r} is not one of this format")
    return key[1:]


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
