"""A picture of a pipeline schedule: stages down, time across, each pass with the number of its micro-batch."""

from __future__ import annotations

from html import escape

from homegrown.parallel.schedule import FORWARD, Act, Timeline

INK = "#16181d"
_BASE = {True: (0x5B, 0xA4, 0xDB), False: (0xF0, 0x93, 0x4C)}
"""Forward blue, backward orange: they part for every kind of colour blindness."""
_PALEST = 0.65
"""How far towards white the colour of a stage's last part goes."""

_ROW, _GAP, _LEFT, _TOP, _BOTTOM = 26, 4, 64, 34, 40
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#16181d}.title{font-weight:600}.cell{text-anchor:middle;fill:#16181d}"
    "@media(prefers-color-scheme:dark){text{fill:#f3f4f6}.cell{fill:#16181d}}"
)


def draw_timeline(timeline: Timeline, title: str, width: int = 960) -> str:
    """A schedule that was played through, as the text of an SVG file for light and dark pages.

    Args:
        timeline: from `schedule.simulate`.
        title: what it is; the size of the bubble is added.
        width: in pixels.
    """
    stages = len(timeline.stages)
    height = _TOP + stages * (_ROW + _GAP) + _BOTTOM
    scale = (width - _LEFT - 8) / timeline.duration
    heading = f"{title}: {100 * timeline.bubble:.0f} % of the time is bubble"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(heading)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="4" y="18">{escape(heading)}</text>',
    ]
    for stage, slots in enumerate(timeline.stages):
        top = _TOP + stage * (_ROW + _GAP)
        lines.append(f'<text x="4" y="{top + 17}">stage {stage}</text>')
        for act, start, stop in slots:
            left, wide = _LEFT + start * scale, (stop - start) * scale
            colour = part_colour(act, stages, timeline.parts)
            lines.append(
                f'<rect x="{left:.1f}" y="{top}" width="{max(wide - 1, 0.5):.1f}" height="{_ROW}" fill="{colour}"/>'
            )
            if wide >= 9 * len(str(act.micro)):
                lines.append(f'<text class="cell" x="{left + wide / 2:.1f}" y="{top + 17}">{act.micro}</text>')
    lines.append(_legend(stages, timeline.parts, height - 24))
    return "\n".join([*lines, "</svg>", ""])


def part_colour(act: Act, stages: int, parts: int) -> str:
    """Colour of a pass, as #rrggbb: a stage's later parts are paler."""
    pale = _PALEST * (act.part // stages) / max(1, parts - 1)
    return "#" + "".join(f"{round(level + (255 - level) * pale):02x}" for level in _BASE[act.kind == FORWARD])


def _legend(stages: int, parts: int, top: int) -> str:
    entries, left = [], _LEFT
    for kind in (FORWARD, "backward"):
        for part in range(parts):
            colour = part_colour(Act(kind, part * stages, 0), stages, parts)
            label = kind if parts == 1 else f"{kind}, part {part + 1} of a stage"
            entries.append(f'<rect x="{left}" y="{top}" width="14" height="14" fill="{colour}"/>')
            entries.append(f'<text x="{left + 20}" y="{top + 12}">{label}</text>')
            left += 40 + 7 * len(label)
    return "\n".join(entries)
