"""A picture of a layout: every rank in its place, and what it holds."""

from __future__ import annotations

from html import escape

from homegrown.parallel.layout import Layout

_SHADES = ("#8ec5ea", "#f6c08a", "#b5d99c", "#d9b8e8", "#f4a9a8", "#a8dcd9", "#e5d68a", "#c7c7c7")
_BOX, _ROW, _GAP, _STAGE, _LEFT, _TOP = 146, 58, 8, 28, 70, 58
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#16181d}.title{font-weight:600}.in{fill:#16181d}.rank{font-weight:600}"
    ".frame{fill:none;stroke:#8a8f98}"
    "@media(prefers-color-scheme:dark){text{fill:#f3f4f6}.in{fill:#16181d}}"
)


def draw_layout(layout: Layout) -> str:
    """A layout as the text of an SVG file for light and dark pages: stages side by side, data-parallel groups down,
    context and tensor shards across. The colour is the expert shard; each rank names what it holds."""
    across = layout.cp * layout.tp
    stage_width = across * (_BOX + _GAP) + _GAP
    width = _LEFT + layout.pp * (stage_width + _STAGE)
    height = _TOP + layout.dp * (_ROW + _GAP) + 44
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(layout.describe())}</title><style>{_STYLE}</style>",
        f'<text class="title" x="4" y="18">{escape(layout.describe())}</text>',
    ]
    for stage in range(layout.pp):
        left = _LEFT + stage * (stage_width + _STAGE)
        layers = ", ".join(_layers(part.layers) for part in layout.parts_of(stage * layout.tokens))
        lines.append(f'<text x="{left}" y="42">pipeline stage {stage}: layers {layers}</text>')
        tall = layout.dp * (_ROW + _GAP) + _GAP
        lines.append(f'<rect class="frame" x="{left}" y="{_TOP - 8}" width="{stage_width}" height="{tall}" rx="6"/>')
        for rank in range(stage * layout.tokens, (stage + 1) * layout.tokens):
            place = layout.place(rank)
            column = place.cp * layout.tp + place.tp
            lines += _rank(layout, rank, left + _GAP + column * (_BOX + _GAP), _TOP + place.dp * (_ROW + _GAP))
    for group in range(layout.dp):
        lines.append(f'<text x="4" y="{_TOP + group * (_ROW + _GAP) + 32}">rows {group}</text>')
    note = "colour: which experts; ranks of one colour in a stage hold the same ones"
    lines.append(f'<text x="{_LEFT}" y="{height - 12}">{note}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _rank(layout: Layout, rank: int, x: int, y: int) -> list[str]:
    place, token = layout.place(rank), layout.token_rank(rank)
    shade = _SHADES[token % layout.ep % len(_SHADES)]
    table = f", table {token % layout.embp}" if any(part.first for part in layout.parts_of(rank)) else ""
    words = (
        ("in rank", f"rank {rank}"),
        ("in", f"sequence {place.cp}, heads {place.tp}"),
        ("in", f"experts {token % layout.ep}{table}"),
    )
    lines = [f'<rect x="{x}" y="{y}" width="{_BOX}" height="{_ROW}" rx="4" fill="{shade}"/>']
    for line, (kind, text) in enumerate(words):
        lines.append(f'<text class="{kind}" x="{x + 6}" y="{y + 17 + 17 * line}">{text}</text>')
    return lines


def _layers(layers: range) -> str:
    return f"{layers.start}-{layers.stop - 1}" if len(layers) > 1 else str(layers.start)
