"""Tables of data files, read key by key: every figure becomes a `Quantity` with its source, nothing is ignored."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from homegrown.config.errors import ConfigError
from homegrown.plan.quantity import SPREAD, Mark, Quantity
from homegrown.plan.units import FACTOR, MEMORY, POWER, SHARE, TIME, Dimension

T = TypeVar("T")
Reader = Callable[[object, str], float]
"""Turns what a file says into a float in SI units; the second argument names the field, for error messages."""

MARKS: tuple[Mark, ...] = get_args(Mark)
"""From the most to the least trustworthy."""
_WIDEST = 1000.0
"""Ratio of an interval's ends above which a unit must be wrong."""
_FIGURE = ("value", "low", "high", "mark", "source", "date", "note")


@dataclass(frozen=True)
class Origin:
    """Where figures were read: what an entry says once for all of its figures."""

    mark: Mark | None = None
    source: str = ""
    date: str = ""


class Entry:
    """A table of a data file while it is read. Each key is asked for by name; `done` refuses those left over.

    Args:
        table: as TOML gave it.
        where: file and entry, for error messages: `chips.toml: h100`.
        origin: of figures that say nothing themselves; None reads it from the table's own mark, source and date.
    """

    def __init__(self, table: Mapping[str, Any], where: str, origin: Origin | None = None) -> None:
        if not isinstance(table, Mapping):
            raise ConfigError(f"{where} = {table!r}: must be a table")
        self.where = where
        self._table = table
        self._asked: list[str] = []
        self.origin = self._origin() if origin is None else origin

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def at(self, key: str) -> str:
        """The field's full name."""
        return f"{self.where}.{key}" if ":" in self.where else f"{self.where}: {key}"

    def take(self, key: str, default: Any = None) -> Any:
        """What the table has under `key`, unchecked."""
        if key not in self._asked:
            self._asked.append(key)
        return self._table.get(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        """A text; needed unless there is a default."""
        value = self.take(key)
        if value is None:
            if default is None:
                raise self.missing(key, "a text")
            return default
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{self.at(key)} = {value!r}: must be a text")
        return value

    def choice(self, key: str, choices: Iterable[T], default: T) -> T:
        """One of some words."""
        value = self.take(key, default)
        choices = list(choices)
        if value not in choices:
            raise ConfigError(f"{self.at(key)} = {value!r}: must be one of {', '.join(map(repr, choices))}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; none if it is left out."""
        value = self.take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{self.at(key)} = {value!r}: must be a list of texts")
        return tuple(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Whether something is so."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.at(key)} = {value!r}: must be true or false")
        return value

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least `least`; needed unless there is a default."""
        value = self.take(key, default)
        if value is None:
            raise self.missing(key, "a whole number")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{self.at(key)} = {value!r}: must be a whole number of at least {least}")
        return value

    def figure(self, key: str, read: Reader, inherited: Quantity | None = None) -> Quantity:
        """A figure in SI units; needed unless one is inherited."""
        value = self.take(key)
        if value is not None:
            return read_figure(value, self.at(key), read, self.origin)
        if inherited is None:
            raise self.missing(key, _expected(read))
        return doubted(inherited, self.origin)

    def figures(
        self, key: str, read: Callable[[str], Reader], known: Iterable[str], inherited: Mapping[str, Quantity]
    ) -> dict[str, Quantity]:
        """A table of figures, over those inherited; `read` gives the reader of each key."""
        known = list(known)
        found = {name: doubted(figure, self.origin) for name, figure in inherited.items()}
        inner = Entry(self.take(key, {}), self.at(key), self.origin)
        for name in known:
            if inner.take(name) is not None:
                found[name] = inner.figure(name, read(name))
        inner.done()
        return found

    def missing(self, key: str, expected: str) -> ConfigError:
        """The error of a field that is needed and not there."""
        return ConfigError(f"{self.where}: {key!r} is missing; it must be {expected}")

    def done(self) -> None:
        """Refuse keys that nobody asked for: a misspelt one would be ignored silently."""
        for key in self._table:
            if key not in self._asked:
                raise ConfigError(
                    f"{self.where}: unknown key {key!r}{did_you_mean(key, self._asked)}; "
                    f"known here: {', '.join(self._asked)}"
                )

    def _origin(self) -> Origin:
        mark = self.choice("mark", (*MARKS, None), None)
        return Origin(mark, self.text("source", ""), self.text("date", ""))


def read_figure(value: object, where: str, read: Reader, origin: Origin) -> Quantity:
    """A figure of a data file: a text with a unit, or a table of value, low, high, mark, source, date and note.

    Without `low` and `high` its interval is what its mark says; without `value` it is their geometric mean.

    Raises:
        ConfigError: it is no such figure, its interval is upside down or incredibly wide, it does not say where it was
            read, or it is a gap without bounds.
    """
    if not isinstance(value, Mapping):
        value = {"value": value}
    for key in value:
        if key not in _FIGURE:
            raise ConfigError(
                f"{where}: unknown key {key!r}{did_you_mean(key, _FIGURE)}; known here: {_listed(_FIGURE)}"
            )
    mark = value.get("mark", origin.mark)
    if mark not in MARKS:
        raise ConfigError(f"{where}.mark = {mark!r}: must say how far the figure can be trusted: {_listed(MARKS)}")
    texts: list[Any] = [value.get(key, getattr(origin, key, "")) for key in ("source", "date", "note")]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{where}: source, date and note must be texts")
    source, date, note = texts
    if not source:
        raise ConfigError(
            f"{where}: 'source' is missing; it must say where the figure was read, or why its bounds hold"
        )
    middle, low, high = _interval(value, where, read, mark)
    return Quantity(value=middle, low=low, high=high, mark=mark, source=source, date=date, note=note)


def _interval(table: Mapping[str, Any], where: str, read: Reader, mark: Mark) -> tuple[float, float, float]:
    """Value, low and high of a figure."""
    ends = {end: read(table[end], where if end == "value" else f"{where}.{end}") for end in _FIGURE[:3] if end in table}
    if mark == "gap" and not {"low", "high"} <= ends.keys():
        raise ConfigError(f"{where}: a gap must say between which bounds the figure is plausible: 'low' and 'high'")
    if "value" in ends:
        middle = ends["value"]
    elif {"low", "high"} <= ends.keys():
        middle = math.sqrt(ends["low"] * ends["high"])
    else:
        raise ConfigError(f"{where}: 'value' is missing; it must be {_expected(read)}, or both 'low' and 'high'")
    low, high = ends.get("low", middle / SPREAD[mark]), ends.get("high", middle * SPREAD[mark])
    if not low <= middle <= high or high > _WIDEST * low:
        told = f"from {table.get('low', f'{low:g}')} to {table.get('high', f'{high:g}')}"
        raise ConfigError(
            f"{where}: its interval, {told}, must hold its value, and its ends be within a factor of {_WIDEST:.0f}"
        )
    return middle, low, high


def read_constants(table: Mapping[str, Any], where: str) -> dict[str, Quantity]:
    """Figures of a table by name; each is a number, a share, or has a unit of time, memory, power.

    The table's own mark, source and date, if it has them, hold for figures that do not carry theirs.
    """
    entry = Entry(table, where)
    found = {name: entry.figure(name, _any) for name in table if name not in ("mark", "source", "date")}
    entry.done()
    return found


def doubted(figure: Quantity, origin: Origin) -> Quantity:
    """A figure taken over from an alike entry: no more trustworthy than the statement that the two are alike."""
    if origin.mark is None or MARKS.index(origin.mark) <= MARKS.index(figure.mark) or origin.mark == "gap":
        return figure
    spread = SPREAD[origin.mark]
    return dataclasses.replace(
        figure,
        low=min(figure.low, figure.value / spread),
        high=max(figure.high, figure.value * spread),
        mark=origin.mark,
        source=f"{origin.source}; {figure.source}",
    )


def old(like: object | None, field: str) -> Any:
    """A field of the entry that another is like, if it is like one."""
    return None if like is None else getattr(like, field)


def product(one: Quantity, other: Quantity, note: str) -> Quantity:
    """The product of two figures that err independently; its mark is the worse of the two."""
    below = math.hypot(math.log(one.value / one.low), math.log(other.value / other.low))
    above = math.hypot(math.log(one.high / one.value), math.log(other.high / other.value))
    value = one.value * other.value
    return Quantity(
        value=value,
        low=value * math.exp(-below),
        high=value * math.exp(above),
        mark=max(one.mark, other.mark, key=MARKS.index),
        source=one.source,
        date=one.date,
        note=f"{one.note}; {note}" if one.note else note,
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the nearest of the known words, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _any(value: object, where: str) -> float:
    for dimension in (SHARE, TIME, MEMORY, POWER):
        if dimension.split(value, where)[1] in dimension.units:
            return dimension(value, where)
    return FACTOR(value, where)


def _expected(read: Reader) -> str:
    return f"{read.what}, as in {read.example!r}" if isinstance(read, Dimension) else "a figure"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
