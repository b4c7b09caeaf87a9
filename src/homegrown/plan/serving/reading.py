"""A deployment read from tables of a TOML file, or from words of a command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from homegrown.config.errors import ConfigError
from homegrown.config.files import build
from homegrown.plan.reading import Entry
from homegrown.plan.serving.setup import Dtype, Exchange, Pool, Precision, Requests, Setup, Speculation, Traffic
from homegrown.plan.units import COUNT, FACTOR, TIME, Dimension, context

T = TypeVar("T", Pool, Precision, Speculation)

_WORDS: Mapping[type, Mapping[str, tuple[str, ...]]] = {
    Pool: {"exchange": get_args(Exchange)},
    Precision: dict.fromkeys(("weights", "experts", "keys", "core", "dispatch", "index", "tables"), get_args(Dtype)),
    Speculation: {},
}
"""Keys that take one of some words."""


def read_setup(table: Mapping[str, Any], where: str) -> Setup:
    """A deployment from its tables: `traffic`, `prefill`, `decode`, `precision`, `speculation`, and `batch`, `use`,
    `ttft`, `tpot`, `devices`, `per`, `usd_hour` beside them.

    Args:
        where: file and table, for messages.

    Raises:
        ConfigError: a key is missing, unknown, of another type, or impossible.
    """
    entry = Entry(table, where)
    setup = Setup(
        traffic=read_traffic(_table(entry, "traffic"), entry.at("traffic")),
        prefill=_part(Pool, entry, "prefill") if "prefill" in entry else None,
        decode=_part(Pool, entry, "decode") if "decode" in entry else None,
        precision=_part(Precision, entry, "precision"),
        speculation=_part(Speculation, entry, "speculation"),
        batch=_figure(entry, "batch", FACTOR),
        use=_figure(entry, "use", FACTOR),
        ttft=_figure(entry, "ttft", TIME),
        tpot=_figure(entry, "tpot", TIME),
        devices=entry.whole("devices", 0, least=0),
        per=entry.whole("per", 1),
        usd_hour=_figure(entry, "usd_hour", FACTOR),
    )
    entry.done()
    return setup


def read_traffic(table: Mapping[str, Any], where: str) -> Traffic:
    """Requests: `input`, `output` and `hit_rate` of equal ones, or a list `mix` of such tables with a `share` each.

    Raises:
        ConfigError: see `read_setup`.
    """
    entry = Entry(table, where)
    live = entry.choice("live", (True, False), True)
    mix = entry.take("mix", [{key: value for key, value in table.items() if key not in ("live", "mix")}])
    if not isinstance(mix, list) or not mix:
        raise ConfigError(f"{where}.mix = {mix!r}: must be a list of tables with input, output and share")
    kinds = tuple(_requests(kind, where) for kind in mix)
    if "mix" in table:
        entry.done()
    return Traffic(mix=kinds, live=live)


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
        share, hits = float(rest[0]) if rest else 1.0, float(rest[1]) if len(rest) > 1 else hit_rate
    except ValueError:
        raise ConfigError(f"--mix {word}: share and hit rate must be numbers, as in 4000/800:0.7:0.5") from None
    tokens = float(context(prompt, "--mix")), float(context(answer, "--mix"))
    return Requests(input=tokens[0], output=tokens[1], share=share, hit_rate=hits)


def _requests(table: Mapping[str, Any], where: str) -> Requests:
    entry = Entry(table, where)
    for key, meaning in (("input", "tokens of a prompt"), ("output", "tokens of an answer")):
        if key not in entry:
            raise entry.missing(key, meaning)
    return build(Requests, dict(table), where)


def _figure(entry: Entry, key: str, dimension: Dimension) -> float:
    return dimension(entry.take(key), entry.at(key)) if key in entry else 0.0


def _part(kind: type[T], entry: Entry, key: str) -> T:
    table = _table(entry, key)
    if kind is Pool and "devices" not in table:
        raise ConfigError(
            f"{entry.at(key)}: 'devices' is missing; it must be the devices that share one copy of the model"
        )
    for name, words in _WORDS[kind].items():
        if name in table and table[name] not in words:
            raise ConfigError(f"{entry.at(key)}.{name} = {table[name]!r}: must be one of {', '.join(words)}")
    return build(kind, dict(table), entry.at(key))


def _table(entry: Entry, key: str) -> Mapping[str, Any]:
    inner = entry.take(key, {})
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{entry.at(key)} = {inner!r}: must be a table")
    return inner
