"""Text that came from data, made visible: samples, and tokens coloured by the compute they were given."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from homegrown.report.analysis import TokenCompute
from homegrown.report.colour import LEVELS, level
from homegrown.report.numbers import count, fixed, parameters, quantity

MAX_TOKENS = 6000
"""Tokens of the coloured text that a page holds."""
_EXTREMES = 8
"""Tokens listed at either end of the scale."""
_LABEL = 24
"""Characters of a label in a drawing."""


def visible(text: str) -> str:
    """`text` with what a page cannot show replaced: control characters by their pictures, lone surrogates by U+FFFD.

    Tabs and newlines stay.
    """
    text = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda found: chr(0x2400 + ord(found[0])), text)
    text = text.replace("\x7f", "\u2421")
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text)


def short(text: str) -> str:
    """`text` as a label of a drawing: visible, and cut where it would leave no room for the drawing."""
    text = visible(text).replace("\n", " ")
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"


@dataclass(frozen=True)
class Token:
    """One coloured token."""

    text: str
    level: int
    tip: str


@dataclass(frozen=True)
class ColouredText:
    """A text and its scale."""

    title: str
    tokens: list[Token]
    left_out: int
    """Tokens beyond `MAX_TOKENS`."""
    legend: list[str]
    """Real experts at the left edge of each level, and at the right edge of the last."""
    even: bool
    """Every token was given the same."""
    summary: str
    most: list[tuple[str, str, str]]
    """Tokens that get most: text, real experts, times seen."""
    least: list[tuple[str, str, str]]


def coloured(compute: TokenCompute) -> ColouredText | None:
    """The coloured text of a run; None if it has no tokens.

    The scale runs from the 2nd to the 98th percentile of the tokens, so that a few extremes do not wash it out.
    """
    entries = [(visible(text), real, active) for text, real, active in compute.tokens]
    if not entries:
        return None
    values = np.array([real for _, real, _ in entries])
    low, high = (float(value) for value in np.percentile(values, [2, 98]))
    actives = [active for _, _, active in entries]
    tokens = [
        Token(
            text,
            level(real, low, high),
            f"{fixed(real, 1)} real experts on average, {parameters(active)} active parameters",
        )
        for text, real, active in entries[:MAX_TOKENS]
    ]
    most, least = _extremes(entries)
    return ColouredText(
        title=visible(compute.title),
        tokens=tokens,
        left_out=max(len(entries) - MAX_TOKENS, 0),
        legend=[fixed(value, 1) for value in np.linspace(low, high, LEVELS + 1)],
        even=high <= low,
        summary=f"A token gets {quantity(float(values.mean()))} real experts on average, from "
        f"{fixed(float(values.min()), 1)} to {fixed(float(values.max()), 1)}: {parameters(min(actives))} to "
        f"{parameters(max(actives))} active parameters.",
        most=most,
        least=least,
    )


def _extremes(entries: list[tuple[str, float, float]]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """The distinct tokens that get most and least on average, as rows; ties go to the frequent.

    Only tokens seen twice or more count if there are enough of them.
    """
    seen: dict[str, list[float]] = defaultdict(list)
    for text, real, _ in entries:
        seen[text].append(real)
    often = {text: values for text, values in seen.items() if len(values) > 1}
    chosen = often if len(often) >= 2 * _EXTREMES else seen
    means = [(sum(values) / len(values), len(values), text) for text, values in chosen.items()]
    most = sorted(means, key=lambda token: (-token[0], -token[1], token[2]))
    least = sorted(means, key=lambda token: (token[0], -token[1], token[2]))
    return _rows(most), _rows(least)


def _rows(tokens: list[tuple[float, int, str]]) -> list[tuple[str, str, str]]:
    return [(_spelled(text), fixed(mean, 1), count(times)) for mean, times, text in tokens[:_EXTREMES]]


def _spelled(text: str) -> str:
    """A token as its own line shows it: spaces, tabs and newlines as signs."""
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
