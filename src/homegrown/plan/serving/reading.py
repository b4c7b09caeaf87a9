"""A deployment read from tables of a TOML file, or from words of a command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from homegrown.config.errors import ConfigError
from homegrown.plan.serving.setup import Dtype, Pool, Precision, Requests, Setup, Speculation, Traffic
from homegrown.plan.units import COUNT, TIME, context

T = TypeVar("T", Pool, Precision, Speculation)

_POOL = {
    "devices": int, "tp": int, "ep": int, "spares": int, "exchange": str, "zero_aware": bool, "overlap": bool,
    "micro_batches": int, "chunk": int, "memory_share": float, "index_everywhere": bool,
}  # fmt: skip
_PRECISION = dict.fromkeys(("weights", "experts", "keys", "core", "dispatch", "index", "tables"), str)
_SPECULATION = {"steps": int, "acceptance": float}
_SETUP = ("traffic", "prefill", "decode", "precision", "speculation", "batch", "ttft", "tpot", "per", "usd_hour")
_TRAFFIC = ("input", "output", "hit_rate", "live", "mix")
_REQUESTS = ("input", "output", "share", "hit_rate")


def read_setup(table: Mapping[str, Any], where: str) -> Setup:
    """A deployment from its tables: `traffic`, `prefill`, `decode`, `precision`, `speculation`, and `batch`, `ttft`,
    `tpot`, `per`, `usd_hour` beside them.

    Args:
        where: file and table, for messages.

    Raises:
        ConfigError: a key is missing, unknown, of another type, or impossible.
    """
    _known(table, _SETUP, where)
    return Setup(
        traffic=read_traffic(_table(table, "traffic", where), f"{where}.traffic"),
        prefill=_read(Pool, table, "prefill", _POOL, where) if "prefill" in table else None,
        decode=_read(Pool, table, "decode", _POOL, where) if "decode" in table else None,
        precision=_read(Precision, table, "precision", _PRECISION, where),
        speculation=_read(Speculation, table, "speculation", _SPECULATION, where),
        batch=_number(table, "batch", where, 0.0),
        ttft=_seconds(table, "ttft", where),
        tpot=_seconds(table, "tpot", where),
        per=int(_number(table, "per", where, 1)),
        usd_hour=_number(table, "usd_hour", where, 0.0),
    )


def read_traffic(table: Mapping[str, Any], where: str) -> Traffic:
    """Requests: `input`, `output` and `hit_rate` of equal ones, or a list `mix` of such tables with a `share` each.

    Raises:
        ConfigError: see `read_setup`.
    """
    _known(table, _TRAFFIC, where)
    live = _flag(table, "live", where, True)
    mix = table.get("mix", [{key: value for key, value in table.items() if key not in ("live", "mix")}])
    if not isinstance(mix, list) or not all(isinstance(kind, Mapping) for kind in mix):
        raise ConfigError(f"{where}.mix = {mix!r}: must be a list of tables with input, output and share")
    return Traffic(mix=tuple(_requests(kind, where) for kind in mix), live=live)


def parse_mix(words: Iterable[str], hit_rate: float) -> tuple[Requests, ...]:
    """Requests as a command line names them: `4000/800:0.7` are 70 % with 4,000 tokens of prompt and 800 of answer.

    A hit rate of its own may follow: `128K/2000:0.3:0.9`.

    Raises:
        ConfigError: a word does not say that.
    """
    return tuple(_parse(word, hit_rate) for word in words)


def parse_rate(text: str) -> float:
    """Requests per second: `100/s`, `6000/min`, `1M/h`, `40M/day`.

    Raises:
        ConfigError: it is none.
    """
    number, _, unit = text.partition("/")
    if not unit:
        raise ConfigError(f"--rate {text}: must be requests per time, as in 100/s, 6000/min or 40M/day")
    return COUNT(number, "--rate") / TIME(f"1 {unit}", "--rate")


def _parse(word: str, hit_rate: float) -> Requests:
    lengths, *rest = word.split(":")
    prompt, slash, answer = lengths.partition("/")
    if not slash or len(rest) > 2:
        raise ConfigError(
            f"--mix {word}: must be PROMPT/ANSWER, then a share and a hit rate behind colons, as in 4000/800:0.7:0.5"
        )
    try:
        share, hits = (
            float(rest[index]) if len(rest) > index else default for index, default in ((0, 1), (1, hit_rate))
        )
    except ValueError:
        raise ConfigError(f"--mix {word}: the share and the hit rate must be numbers, as in 4000/800:0.7:0.5") from None
    return Requests(
        input=float(context(prompt, "--mix")), output=float(context(answer, "--mix")), share=share, hit_rate=hits
    )


def _requests(table: Mapping[str, Any], where: str) -> Requests:
    _known(table, _REQUESTS, where)
    for key in ("input", "output"):
        if key not in table:
            raise ConfigError(
                f"{where}.{key}: is missing; it says the tokens of {'a prompt' if key == 'input' else 'an answer'}"
            )
    values = {key: _number(table, key, where, 0.0) for key in table}
    return Requests(**values)


def _read(kind: type[T], table: Mapping[str, Any], key: str, types: Mapping[str, type], where: str) -> T:
    inner = _table(table, key, where)
    at = f"{where}.{key}"
    _known(inner, types, at)
    values = {name: _typed(value, types[name], f"{at}.{name}") for name, value in inner.items()}
    if kind is Precision:
        for name, value in values.items():
            if value not in get_args(Dtype):
                raise ConfigError(f"{at}.{name} = {value!r}: must be one of {', '.join(get_args(Dtype))}")
    if kind is Pool:
        _check_pool(values, at)
    return kind(**values)


def _check_pool(values: Mapping[str, Any], at: str) -> None:
    if "devices" not in values:
        raise ConfigError(f"{at}.devices: is missing; it says the devices that share one copy of the model")
    if values.get("exchange", "dispatch") not in ("dispatch", "replicated"):
        raise ConfigError(f"{at}.exchange = {values['exchange']!r}: must be dispatch or replicated")
    if values.get("micro_batches", 0) not in (0, 1, 2):
        raise ConfigError(f"{at}.micro_batches = {values['micro_batches']}: must be 1, 2, or 0 for the quicker")


def _typed(value: object, kind: type, at: str) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    fits = isinstance(value, bool) if kind is bool else isinstance(value, kind) and not isinstance(value, bool)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        fits = True
    if not fits:
        raise ConfigError(f"{at} = {value!r}: must be {words[kind]}")
    return kind(value)


def _table(table: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    inner = table.get(key, {})
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{where}.{key} = {inner!r}: must be a table")
    return inner


def _number(table: Mapping[str, Any], key: str, where: str, default: float) -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}.{key} = {value!r}: must be a number")
    return float(value)


def _flag(table: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}.{key} = {value!r}: must be true or false")
    return value


def _seconds(table: Mapping[str, Any], key: str, where: str) -> float:
    return TIME(table[key], f"{where}.{key}") if key in table else 0.0


def _known(table: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    for key in table:
        if key not in keys:
            close = difflib.get_close_matches(str(key), list(keys), n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(keys)}"
            raise ConfigError(f"{where}.{key}: unknown key{hint}")
