"""What devices and sites cost, and dated sentences on the sale of chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homegrown.config.errors import ConfigError
from homegrown.plan.quantity import Quantity
from homegrown.plan.reading import MARKS, Entry, Origin, Reader, read_figure
from homegrown.plan.units import ENERGY_PRICE, RENTAL, SHARE, TIME, money

_SITE: Mapping[str, Reader] = {
    "yuan": money(1.0),
    "electricity": ENERGY_PRICE,
    "lifetime": TIME,
    "load": SHARE,
    "node_load": SHARE,
}
File = tuple[str, Mapping[str, Any]]
"""What to call a data file, and what it holds."""


@dataclass(frozen=True)
class Prices:
    """Prices, by the names of chips.

    Attributes:
        rental: US dollars an hour of a device.
        capital: US dollars to buy a device with its share of the system.
        site: `yuan` (US dollars), `electricity` (US dollars a joule), `lifetime` (seconds of use), `load` and
            `node_load` (share of its rated power that a device, or a whole node, draws while it trains).
    """

    rental: Mapping[str, Quantity]
    capital: Mapping[str, Quantity]
    site: Mapping[str, Quantity]


def read_prices(files: Sequence[File]) -> Prices:
    """Prices of several files, later ones over earlier ones.

    Raises:
        ConfigError: a price is no price, or does not say where it was read.
    """
    site: dict[str, Quantity] = {}
    rental: dict[str, Quantity] = {}
    capital: dict[str, Quantity] = {}
    for file, table in files:
        entry = Entry(table, file)
        site |= entry.figures("site", lambda name: _SITE[name], _SITE, {})
        rental |= _by_chip(entry, "rental", RENTAL)
        capital |= _by_chip(entry, "capital", money(site["yuan"].value))
        entry.done()
    return Prices(rental, capital, site)


def _by_chip(entry: Entry, key: str, read: Reader) -> dict[str, Quantity]:
    table = entry.take(key, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{entry.at(key)} = {table!r}: must be a table of prices by chip")
    return {name: read_figure(value, f"{entry.at(key)}.{name}", read, entry.origin) for name, value in table.items()}


def read_rules(files: Sequence[File]) -> dict[str, tuple[str, ...]]:
    """Dated sentences on the sale of chips, by chip.

    Raises:
        ConfigError: a rule lacks its sentence, its date or its source.
    """
    found: dict[str, tuple[str, ...]] = {}
    for file, table in files:
        entry = Entry(table, file, Origin())
        rules = entry.take("rules", [])
        entry.done()
        if not isinstance(rules, list):
            raise ConfigError(f"{entry.at('rules')} = {rules!r}: must be a list of tables")
        for place, rule in enumerate(rules):
            inner = Entry(rule, f"{file}: rules[{place}]", Origin())
            mark = inner.choice("mark", MARKS, "")
            fact = f"{inner.text('date')}: {inner.text('text')} ({mark}; {inner.text('source')})"
            for chip in inner.texts("chips"):
                found[chip] = (*found.get(chip, ()), fact)
            inner.done()
    return found
