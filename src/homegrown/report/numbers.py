"""Quantities as a person reads them."""

from __future__ import annotations

import math

# A narrow no-break space stands between number and unit.
_GAP = "\u202f"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_FRACTIONS = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def quantity(value: float, unit: str = "", digits: int = 3) -> str:
    """`value` rounded, with an SI prefix.

    Without a unit prefixes begin at 10,000: 3,140,000 is "3.14 M", and small numbers are powers of ten. With one they
    are used wherever they fit: "5.23 kJ", "3.19 mJ".
    """
    if not math.isfinite(value):
        return _not_finite(value)
    value = float(f"{value:.{digits - 1}e}")  # first, so that 999,999 is 1 M and not 1,000 k
    prefixes = (*_PREFIXES, *_FRACTIONS) if unit else _PREFIXES if abs(value) >= 1e4 else ()
    for size, prefix in prefixes:
        if abs(value) >= size:
            return f"{_significant(value / size, digits)}{_GAP}{prefix}{unit}"
    return f"{_significant(value, digits)}{_GAP}{unit}" if unit else _significant(value, digits)


def parameters(value: float) -> str:
    """A number of parameters: 3.1 M, 48.7 B."""
    return quantity(value).replace("G", "B")


def count(value: float) -> str:
    """A whole number with thousands separated."""
    return f"{round(value):,}" if math.isfinite(value) else _not_finite(value)


def fixed(value: float, digits: int = 3) -> str:
    """`value` with that many decimals."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else _not_finite(value)


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction of one as a percentage."""
    return f"{fraction * 100:.{digits}f}{_GAP}%" if math.isfinite(fraction) else _not_finite(fraction)


def duration(seconds: float) -> str:
    """A time as its two largest units: 2 h 5 min, 1 min 30 s, 4.2 s."""
    if not math.isfinite(seconds):
        return _not_finite(seconds)
    if seconds < 60:
        return f"{_significant(seconds, 2)}{_GAP}s"
    minutes = round(seconds / 60)
    if minutes < 10:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}{_GAP}min {rest}{_GAP}s"
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        days, hours = divmod(round(seconds / 3600), 24)
        return f"{days}{_GAP}d {hours}{_GAP}h"
    return f"{hours}{_GAP}h {minutes}{_GAP}min" if hours else f"{minutes}{_GAP}min"


def _significant(value: float, digits: int) -> str:
    """`value` rounded to significant digits, without trailing zeros; below a thousandth as a power of ten."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, places):,.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _not_finite(value: float) -> str:
    return "not a number" if math.isnan(value) else "infinite"
