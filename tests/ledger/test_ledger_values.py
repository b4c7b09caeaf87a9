"""Every value survives, and every value has one text."""

from __future__ import annotations

import json
import math
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.ledger.values import dumps, loads

# Keys that look like the format's own spelling are as likely as any others.
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(["$", "$$", "$float", "$$float", "$x"]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    """Equality that tells 1 from 1.0 and True, -0.0 from 0.0, and calls NaN equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


@given(VALUES)
def test_every_value_comes_back(value: object) -> None:
    text = dumps(value, sort_keys=True).encode("ascii")
    assert same(loads(text), value)
    json.loads(text, parse_constant=pytest.fail)  # strict JSON, so any reader takes it


@given(VALUES)
def test_sorted_text_does_not_depend_on_the_order_of_keys(value: object) -> None:
    def reverse(item: object) -> object:
        if isinstance(item, dict):
            return OrderedDict((key, reverse(item[key])) for key in reversed(item))
        return [reverse(entry) for entry in item] if isinstance(item, list) else item

    assert dumps(value, sort_keys=True) == dumps(reverse(value), sort_keys=True)


def test_unsorted_text_keeps_the_order() -> None:
    assert dumps({"b": 1, "a": (2, 3)}, sort_keys=False) == '{"b":1,"a":[2,3]}'


def test_numpy_scalars_that_are_floats_are_written_as_such() -> None:
    assert dumps(np.float64(0.1), sort_keys=True) == "0.1"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r"a\[1\] is a set, which JSON cannot hold"),
        (np.float32(1), "the value is a numpy.float32"),
        ({"a": {1: 2}}, "a has the key 1; JSON keys are strings"),
    ],
)
def test_what_json_cannot_hold_is_named(value: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        dumps(value, sort_keys=True)


@pytest.mark.parametrize(
    "text",
    [b"NaN", b"[Infinity]", b'{"$float":"1"}', b'{"$float":"nan","x":1}', b'{"$x":1}', b"\xff", b"[" * 100_000, b""],
)
def test_other_spellings_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)
