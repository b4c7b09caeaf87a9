"""Numbers, series, colours and drawings, each against an independent statement of what it should be."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.report import numbers
from homegrown.report.colour import DARK, LEVELS, LIGHT, Scale, contrast, level
from homegrown.report.heat import OVER, UNDER, tint
from homegrown.report.series import smooth, spread, thin
from homegrown.report.svg import INK, NARROW, SERIES, draw, plain_ticks, round_numbers
from homegrown.report.text import visible


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"), (3.14159, "", "3.14"), (9999, "", "10 k"), (7877, "", "7,880"), (999_999, "", "1 M"),
        (3.14e6, "", "3.14 M"), (4.87e10, "", "48.7 G"), (1.62e11, "FLOP/s", "162 GFLOP/s"), (5234, "J", "5.23 kJ"),
        (3.19e-3, "J", "3.19 mJ"), (2.5e-7, "J", "250 nJ"), (42, "W", "42 W"), (4.1e-6, "", "4.1×10⁻⁶"),
        (-1.5, "", "-1.5"), (1e30, "", "1,000,000,000,000 E"), (math.nan, "J", "not a number"),
        (math.inf, "", "infinite"),
    ],
)  # fmt: skip
def test_quantities(value: float, unit: str, text: str) -> None:
    assert numbers.quantity(value, unit).replace("\u202f", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.012, "0.012 s"), (4.23, "4.2 s"), (59.4, "59 s"), (90, "1 min 30 s"), (599.7, "10 min"), (3599, "1 h 0 min"),
        (7500, "2 h 5 min"), (200_000, "2 d 8 h"), (math.nan, "not a number"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert numbers.duration(seconds).replace("\u202f", " ") == text


def test_other_numbers() -> None:
    assert numbers.parameters(48.7e9) == "48.7\u202fB"
    assert numbers.count(1234567.0) == "1,234,567"
    assert numbers.fixed(1.42184) == "1.422"
    assert numbers.percent(0.1834) == "18.3\u202f%"


@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=40), st.integers(1, 15)
)
def test_smoothing_is_the_mean_of_the_finite_neighbours(values: list[float], window: int) -> None:
    smoothed = smooth(np.array(values), window)
    for index in range(len(values)):
        near = values[max(index - window // 2, 0) : index + window // 2 + 1]
        near = [value for value in near if math.isfinite(value)]
        if not near:
            assert math.isnan(smoothed[index])
        else:
            # Prefix sums lose at most the rounding of the largest partial sum, 40 * 1e6 * 2^-52.
            assert smoothed[index] == pytest.approx(sum(near) / len(near), abs=1e-7)


def test_thinning_keeps_the_range_and_the_mean() -> None:
    x, y = np.arange(1000.0), np.random.default_rng(0).normal(size=1000)
    y[500] = math.nan
    places, mean, low, high = thin(x, y, 100)
    assert len(places) == 100
    assert (low.min(), high.max()) == (np.nanmin(y), np.nanmax(y))
    assert np.all((low <= mean) & (mean <= high))
    assert np.all(np.diff(places) > 0)
    assert np.average(mean, weights=[len(part) for part in np.array_split(np.arange(999), 100)]) == pytest.approx(
        np.nanmean(y)
    )


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_thinning_nothing_gives_nothing(values: list[float]) -> None:
    assert all(len(part) == 0 for part in thin(np.arange(float(len(values))), np.array(values), 10))


@given(st.integers(0, 300), st.integers(2, 50))
def test_spread_has_both_ends_and_no_more_than_asked(number: int, most: int) -> None:
    chosen = spread(number, most)
    assert len(chosen) == min(number, most)
    assert not number or (chosen[0], chosen[-1]) == (0, number - 1)


def oklab(colour: str) -> np.ndarray:
    """sRGB to OKLab by the published forward matrices (Ottosson 2020), which the code under test does not use."""
    rgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lms = np.array([
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]) @ linear  # fmt: skip
    return np.array([
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]) @ np.cbrt(lms)  # fmt: skip


@pytest.mark.parametrize("scale", [LIGHT, DARK])
def test_the_compute_scale_is_even_and_readable(scale: Scale) -> None:
    colours = scale.colours()
    assert len(set(colours)) == LEVELS
    points = np.array([oklab(colour) for colour in colours])
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    # Rounding a channel to eight bits moves a colour by up to 0.0017 here (a step of 0.027), at either end of a step.
    assert np.abs(steps / steps.mean() - 1).max() < 0.13
    lightness = np.diff(points[:, 0])
    assert np.all(lightness < 0) or np.all(lightness > 0)  # the order survives without hue
    assert min(contrast(colour, scale.ink) for colour in colours) >= 4.5


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_levels_cover_the_scale_and_clip() -> None:
    assert [level(value, 2.0, 5.0) for value in (-9, 2.0, 3.49, 5.0, 99)] == [0, 0, 5, LEVELS - 1, LEVELS - 1]
    assert level(1.0, 1.0, 1.0) == LEVELS // 2


def test_load_as_intended_is_clear_and_deviations_grow() -> None:
    under, even, over = tint(np.array([0.125, 1.0, 8.0])).tolist()
    assert even[3] == 0
    assert under == [*UNDER, 255]
    assert over == [*OVER, 255]
    alphas = tint(np.array([0.0, 0.3, 0.6, 1.0, 1.5, 3.0, math.inf]))[:, 3]
    assert alphas.tolist() == [255, *sorted(alphas[1:3], reverse=True), 0, *sorted(alphas[4:6]), 255]


@given(st.floats(1e-9, 1e9), st.floats(1.0001, 1e8), st.integers(3, 9))
def test_ticks_are_inside_and_few(low: float, ratio: float, most: int) -> None:
    ticks = round_numbers(low, low * ratio, most)
    assert len(ticks) <= most
    assert all(low <= tick <= low * ratio for tick in ticks)


def test_drawings_are_small_themed_and_deterministic() -> None:
    def paint(_: Figure, axes: Axes) -> None:
        axes.plot([1, 2, 3], [1, 4, 2], "o-", color=SERIES[0], label="$a$ <b> & c")
        axes.axhline(2, color=INK)
        axes.legend()

    drawing = draw("some-plot", paint, NARROW, 'told "so" <i>')
    assert drawing == draw("some-plot", paint, NARROW, 'told "so" <i>')
    assert drawing.startswith('<svg viewBox="0 0 460 290" role="img" aria-label="told &quot;so&quot; &lt;i&gt;">')
    assert "$a$ &lt;b&gt; &amp; c</text>" in drawing  # text stays text, and no formula
    assert "var(--series-1)" in drawing
    assert "var(--ink)" in drawing
    assert "#0101" not in drawing
    assert "#0102" not in drawing
    assert not any(word in drawing for word in ("http", "metadata", "<style", "font-family", "DejaVu", "Matplotlib"))
    assert len(drawing) < 10_000


def test_neighbouring_ticks_are_told_apart() -> None:
    def paint(_: Figure, axes: Axes) -> None:
        axes.plot([1, 2], [0.0020001, 0.0020062])
        plain_ticks(axes.yaxis)

    labels = re.findall(r"text-anchor: end[^>]*>([^<]+)", draw("ticks", paint, NARROW, "close values"))
    assert len(labels) > 2
    assert len(set(labels)) == len(labels)
    assert all(label.startswith("0.00200") or label == "0.002" for label in labels)


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw("other", lambda figure, axes: None, NARROW, "nothing")
    assert dict(matplotlib.rcParams) == before


def test_invisible_characters_are_shown() -> None:
    assert visible("a\tb\nc\r\x00\x0c\x1b\x7f\ud83d") == "a\tb\nc␍␀␌␛␡\ufffd"
