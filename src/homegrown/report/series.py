"""Columns of a run's metrics, smoothed and thinned for plotting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def column(lines: list[dict[str, Any]], key: str) -> Array:
    """`key` of every line as float64; NaN where it is absent, null or no number."""
    values = (line.get(key) for line in lines)
    return np.array([value if isinstance(value, int | float) else np.nan for value in values], dtype=np.float64)


def smooth(values: Array, window: int) -> Array:
    """Centred moving average over `window` entries, fewer at the ends; NaN and infinities are left out of it.

    An entry whose whole window holds no finite number is NaN.
    """
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    number = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(values))
    low = np.maximum(index - window // 2, 0)
    high = np.minimum(index + window // 2 + 1, len(values))
    counts = number[high] - number[low]
    return np.where(counts > 0, (total[high] - total[low]) / np.maximum(counts, 1), np.nan)


def thin(x: Array, y: Array, points: int) -> tuple[Array, Array, Array, Array]:
    """At most `points` buckets of neighbouring entries, each with its x and the mean, least and greatest y in it.

    Buckets without a finite y are left out, so that nothing is drawn where nothing was measured.

    Returns:
        x, mean, low, high, each of shape [buckets].
    """
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    if not len(x):
        return x, y, y, y
    groups = np.array_split(np.arange(len(x)), min(points, len(x)))
    starts = np.array([group[0] for group in groups])
    sizes = np.array([len(group) for group in groups])
    return (
        np.add.reduceat(x, starts) / sizes,
        np.add.reduceat(y, starts) / sizes,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )


def spread(number: int, most: int) -> list[int]:
    """At most `most` indices below `number`, evenly spread, first and last included."""
    if number <= most:
        return list(range(number))
    return sorted({round(index) for index in np.linspace(0, number - 1, most)})
