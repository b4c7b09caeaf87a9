"""The colour scale for compute per token, and the arithmetic that shows it is fair to every reader.

Levels are equal steps on a straight line in OKLab (Ottosson 2020), a space in which equal distances look
equal. Lightness changes steadily along the line, so the order survives every kind of colour blindness and a
print in grey. The light theme darkens with more compute, the dark theme brightens, and the text on top keeps
a contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3) on every level of either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEVELS = 12
"""Colours of the scale."""

Rgb = tuple[float, float, float]
"""Gamma-encoded sRGB, each in 0..1."""


@dataclass(frozen=True)
class Scale:
    """One theme's scale: two ends in OKLCH (lightness, chroma, hue in degrees) and the colour of text on it."""

    least: tuple[float, float, float]
    most: tuple[float, float, float]
    ink: str

    def colours(self) -> list[str]:
        """The levels from least to most, as #rrggbb."""
        low, high = _lab(*self.least), _lab(*self.most)
        mixes = (index / (LEVELS - 1) for index in range(LEVELS))
        return [_hex(_rgb([a + (b - a) * mix for a, b in zip(low, high, strict=True)])) for mix in mixes]


LIGHT = Scale(least=(0.98, 0.01, 100), most=(0.66, 0.135, 240), ink="#16181d")
DARK = Scale(least=(0.25, 0.015, 260), most=(0.53, 0.13, 245), ink="#f3f4f6")


def contrast(a: str, b: str) -> float:
    """WCAG contrast ratio of two #rrggbb colours, 1 to 21."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def level(value: float, low: float, high: float) -> int:
    """The level of `value` on a scale from `low` to `high`; values outside take the end's colour."""
    if high <= low:
        return LEVELS // 2
    return min(max(int((value - low) / (high - low) * LEVELS), 0), LEVELS - 1)


def _lab(lightness: float, chroma: float, hue: float) -> list[float]:
    angle = math.radians(hue)
    return [lightness, chroma * math.cos(angle), chroma * math.sin(angle)]


def _rgb(lab: list[float]) -> Rgb:
    """OKLab to sRGB, with the published matrices."""
    lightness, a, b = lab
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return _encode(red), _encode(green), _encode(blue)


def _encode(linear: float) -> float:
    linear = min(max(linear, 0.0), 1.0)
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _decode(encoded: float) -> float:
    return encoded / 12.92 if encoded <= 0.04045 else ((encoded + 0.055) / 1.055) ** 2.4


def _hex(rgb: Rgb) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in rgb)


def _luminance(colour: str) -> float:
    red, green, blue = (_decode(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
