"""Request bodies: JSON of a known shape, taken leniently.

Unknown fields are ignored, since clients are newer than servers. A field of the wrong type is named.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from homegrown.serve.errors import ApiError

T = TypeVar("T")

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<field>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")


async def read(request: Request, kind: type[T]) -> T:
    """The body of a request as a `kind`, usually a `msgspec.Struct` with a default for every optional field.

    Raises:
        ApiError: `invalid`, as `decode` says.
        starlette.requests.ClientDisconnect: the client left while it was sending.
    """
    return decode(await request.body(), kind)


def decode(data: bytes, kind: type[T]) -> T:
    """JSON as a `kind`.

    Raises:
        ApiError: `invalid`: the data is not UTF-8, not JSON, nested too deep, or a field (named in `param`) has the
            wrong type.
    """
    try:
        data.decode()  # the JSON decoder skips what it ignores without looking
        return _decoder(kind).decode(data)
    except msgspec.ValidationError as error:
        raise _wrong_type(error, "") from None
    except UnicodeDecodeError as error:
        message = f"The body must be UTF-8: byte {error.object[error.start]:#04x} at {error.start} is not."
        raise ApiError("invalid", message) from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise ApiError("invalid", f"The body must be a JSON object, but is not valid JSON: {reason}.") from None
    except RecursionError:
        raise ApiError("invalid", "The body is nested too deep: no field needs so many levels.") from None


def convert(value: Any, kind: type[T], where: str) -> T:
    """A decoded part of a body as a `kind`; `where` is its path from the top, such as `messages[3]`.

    Raises:
        ApiError: `invalid`: a field (named in `param`) has the wrong type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _wrong_type(error, where) from None
    except RecursionError:
        raise ApiError("invalid", f"`{where}` is nested too deep.", param=where) from None


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """Compiled once for each of the few kinds that modules declare."""
    if kind not in _decoders:
        _decoders[kind] = msgspec.json.Decoder(kind)
    return _decoders[kind]


def _wrong_type(error: msgspec.ValidationError, where: str) -> ApiError:
    """For the decoder's "Expected `int | null`, got `str` - at `$.n`": "Field `n`: expected `int`, got `str`."."""
    match = _WHERE.match(str(error))
    what, key, field = match.group("what", "key", "field") if match else (str(error), None, None)
    reason = what[:1].lower() + what[1:].replace(" | null", "")
    path = _joined(where, field or "")
    if missing := _MISSING.fullmatch(what):
        path, reason = _joined(path, missing[1]), "is missing"
    if key:
        reason = f"a key: {reason}"
    return ApiError("invalid", f"{f'Field `{path}`' if path else 'The body'}: {reason}.", param=path or None)


def _joined(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path and rest and not rest.startswith("[") else path + rest
