"""Bodies: what is taken, what is refused, and which field is named."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.serve.api.body import convert, decode
from homegrown.serve.errors import ApiError


class Inner(msgspec.Struct):
    text: str | None = None
    n: int = 0


class Body(msgspec.Struct, kw_only=True):
    model: str
    n: int | None = None
    t: float | None = None
    inner: list[Inner] | None = None
    bias: dict[int, float] | None = None
    free: dict | None = None


def test_unknown_fields_and_nulls():
    body = decode(b'{"model": "m", "new": [1, {"a": null}], "n": null, "t": 1, "bias": {"5": -1}}', Body)
    assert (body.model, body.n, body.t, body.bias) == ("m", None, 1.0, {5: -1.0})


@pytest.mark.parametrize(
    ("data", "param", "words"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b'{"model": "m"} x', None, "not valid JSON"),
        (b"[]", None, "expected `object`"),
        (b"null", None, "expected `object`"),
        (b'{"model": "\xff"}', None, "UTF-8"),
        (b'{"model": "m", "ignored": "\xff"}', None, "UTF-8"),
        (b'{"model": "\\ud800"}', None, "not valid JSON"),
        (b'{"model": "m", "t": NaN}', None, "not valid JSON"),
        (b'{"model": "m", "x": ' + b"[" * 99999 + b"]" * 99999 + b"}", None, "nested too deep"),
        (b"{}", "model", "is missing"),
        (b'{"model": 3}', "model", "expected `str`, got `int`"),
        (b'{"model": "m", "n": "3"}', "n", "expected `int`, got `str`"),
        (b'{"model": "m", "n": true}', "n", "expected `int`, got `bool`"),
        (b'{"model": "m", "t": 1e999}', "t", "out of range"),
        (b'{"model": "m", "inner": [{}, {"text": 3}]}', "inner[1].text", "expected `str`, got `int`"),
        (b'{"model": "m", "inner": [1]}', "inner[0]", "expected `object`"),
        (b'{"model": "m", "bias": {"x": 1}}', "bias", "expected `int`"),
    ],
)
def test_refusals(data, param, words):
    with pytest.raises(ApiError) as caught:
        decode(data, Body)
    assert caught.value.kind == "invalid"
    assert words in caught.value.message
    assert caught.value.message.endswith(".")
    if param is not None:
        assert caught.value.param.startswith(param)
        assert f"`{param}" in caught.value.message


def test_parts_are_named_from_the_top():
    assert convert({"n": 3}, Inner, "a.b").n == 3
    with pytest.raises(ApiError) as caught:
        convert([{"n": 3}, {"n": []}], list[Inner], "a.b")
    assert caught.value.param == "a.b[1].n"


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data):
    try:
        decode(data, Body)
    except ApiError as error:
        assert error.kind == "invalid"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["model", "n", "t", "inner", "bias", "free"]), json_values))
def test_no_values_raise_anything_else(value):
    try:
        decode(json.dumps(value).encode(), Body)
    except ApiError as error:
        assert error.kind == "invalid"
