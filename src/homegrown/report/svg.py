"""Matplotlib figures as inline SVG: small, deterministic, coloured by the page's theme, safe side by side.

Figures are drawn in placeholder colours, which become the page's CSS variables afterwards, so that one
drawing serves the light and the dark theme. Text stays text. Ids carry the plot's name, because ids of
several inline SVGs share one namespace.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, Formatter, MaxNLocator, NullFormatter

from homegrown.report.numbers import quantity

INK, MUTED, GRID = "#010101", "#010102", "#010103"
SERIES = ("#010201", "#010202", "#010203", "#010204", "#010205", "#010206")
"""Colours that differ for every reader; `--series-1` and on in the style sheet."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)
}
_UNIT = 72
"""Matplotlib's SVG has 72 units an inch; sizes here are in those units, about one CSS pixel each."""

NARROW = (460, 290)
WIDE = (1000, 360)

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.8,
    "lines.solid_joinstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

Painter = Callable[[Figure, Axes], None]


@dataclass(frozen=True)
class Plot:
    """A figure of the page."""

    title: str
    summary: str
    """What the picture shows, in a sentence, for readers who do not see it."""
    caption: str
    drawings: list[tuple[str, Markup]]
    """Width class (`any`, or `wide` and `narrow`, of which the page shows one) and the SVG element."""


def plot(
    name: str,
    paint: Painter,
    *,
    title: str,
    summary: str,
    caption: str = "",
    size: tuple[float, float] = NARROW,
    wide: tuple[float, float] | None = None,
) -> Plot:
    """Draw a figure, and a second time for wide screens if `wide` gives a size for them.

    Args:
        name: unique on the page; letters, digits and hyphens.
        paint: draws into an empty figure with one set of axes.
        title: heading of the figure.
        summary: the picture in a sentence; becomes its accessible name.
        caption: shown below the title.
        size: width and height in CSS pixels.
        wide: the same where the page is wide.
    """
    if wide is None:
        drawings = [("any", draw(name, paint, size, summary))]
    else:
        drawings = [
            ("narrow", draw(f"{name}-narrow", paint, size, summary)),
            ("wide", draw(f"{name}-wide", paint, wide, summary)),
        ]
    return Plot(title, summary, caption, drawings)


def draw(name: str, paint: Painter, size: tuple[float, float], summary: str) -> Markup:
    """One SVG element; see `plot`."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(size[0] / _UNIT, size[1] / _UNIT), dpi=_UNIT, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure, figure.subplots())
        file = io.StringIO()
        with warnings.catch_warnings():
            # Matplotlib only measures with its font; the reader's browser draws the text with one that has the sign.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
            figure.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue(), name, summary)


def plain_ticks(axis: Axis, most: int = 6, *, whole: bool = False) -> None:
    """Ticks labelled as quantities (20 k, 0.5), on linear and logarithmic axes alike."""
    axis.set_major_formatter(_Quantities())
    axis.set_minor_formatter(NullFormatter())
    if axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole))
    else:
        axis.set_major_locator(FixedLocator(round_numbers(*axis.get_view_interval(), most=most)))


class _Quantities(Formatter):
    """Labels ticks with as many digits as tell neighbours apart."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        steps = np.diff(np.sort(values))
        apart = np.abs(values).max() / steps.min() if len(steps) and steps.min() > 0 else 1.0
        digits = max(3, math.ceil(math.log10(max(apart, 1.0))) + 1)
        return [quantity(value, digits=digits).replace("-", "−") for value in values]


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two positive bounds, evenly spread on a logarithmic axis, at most `most` of them.

    The densest of several familiar series that fits; every so many decades where none does.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for series in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in series]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def _inline(text: str, name: str, summary: str) -> Markup:
    """The `<svg>` of a matplotlib file, without what an HTML page does not need."""
    root = ET.fromstring(text)
    wanted = set(re.findall(r"#([A-Za-z]\w+)", " ".join(re.findall(r'(?:url\(|href=")#\w+', text))))
    _prune(root)
    for element in root.iter():
        _clean(element, name, wanted)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": summary})
    return Markup(ET.tostring(root, encoding="unicode"))


def _prune(element: ET.Element) -> None:
    """Remove metadata, style sheets (the page has its own), groups of nothing, invisible patches, white space."""
    for child in list(element):
        _prune(child)
        kind = child.tag.rpartition("}")[2]
        empty = kind in ("g", "defs") and not len(child)
        invisible = kind == "path" and child.get("style") == "fill: none"
        if kind in ("metadata", "style") or empty or invisible:
            element.remove(child)
    if not element.tag.endswith("}text"):
        element.text = None
    element.tail = None


def _clean(element: ET.Element, name: str, wanted: set[str]) -> None:
    """Drop namespaces and unreferenced ids, prefix the others, shorten numbers, name colours by variable."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    element.attrib.clear()
    for key, value in attributes.items():
        if key == "id" and value not in wanted:
            continue
        if key == "transform" and value.startswith("rotate(-0 "):
            continue
        element.set(key, _rewrite(key, value, name))


def _rewrite(key: str, value: str, name: str) -> str:
    match key:
        case "id":
            return f"{name}-{value}"
        case "href" if value.startswith("#"):
            return f"#{name}-{value[1:]}"
        case "clip-path":
            return value.replace("url(#", f"url(#{name}-")
        case "d" | "x" | "y":
            return re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\s+", " ", value)).strip()
        case "style":
            value = re.sub(r"#010[12]0\d", lambda found: f"var({_VARIABLES[found[0]]})", value)
            return re.sub(r" ?font-family: [^;]*;", "", value)
    return value
