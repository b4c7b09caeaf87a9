"""Expert load over time: one picture per layer, experts up, steps across, colour for load over intended load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from homegrown.report.curves import target_experts
from homegrown.report.numbers import count, fixed, percent
from homegrown.report.run import Run
from homegrown.report.series import Array, spread
from homegrown.report.svg import INK, Plot, plain_ticks, plot

_LAYERS, _ROWS, _COLUMNS = 12, 128, 120
"""Most layers, rows and columns that are drawn: a page of every expert of a large model would be too big to open."""
_OCTAVES = 2.0
"""Full colour at this many doublings or halvings of the intended load."""
_STEPS = 16
"""Shades on either side of the neutral one."""

UNDER = (0x2B, 0x83, 0xBA)
OVER = (0xE6, 0x6B, 0x12)
"""Blue and orange part for every kind of colour blindness. Alpha carries the amount, so that a load as intended
is the page itself, in the light theme as in the dark."""


@dataclass(frozen=True)
class ExpertLoad:
    """The load pictures of a run."""

    plots: list[Plot]
    intended: str
    """What the picture compares with, in a sentence."""
    note: str
    """What was left out or averaged; empty if everything is drawn."""


def expert_load(run: Run) -> ExpertLoad | None:
    """Pictures of `expert_load`; None if there is none, or no config to say what was intended."""
    lines = [line for line in run.train if _is_load(line.get("expert_load"))]
    target = target_experts(run)
    if not lines or target is None or run.config is None:
        return None
    shapes = {np.shape(line["expert_load"]) for line in lines}
    if len(shapes) > 1:
        return None
    lines = [lines[index] for index in spread(len(lines), _COLUMNS)]
    steps = np.array([line["step"] for line in lines], dtype=np.float64)
    shares = np.array([line["expert_load"] for line in lines], dtype=np.float64)
    layers = spread(shares.shape[1], _LAYERS)
    intended = target / run.config.model.moe_topk
    plots = [_layer(layer, steps, shares[:, layer], intended) for layer in layers]
    return ExpertLoad(plots, _intended(intended), _note(shares.shape[1], len(layers), shares.shape[2] - 1))


def tint(ratio: Array) -> NDArray[np.uint8]:
    """Load over intended load as RGBA, shape [..., 4]: blue below one, orange above, clear at one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        amount = np.clip(np.nan_to_num(np.log2(ratio), neginf=-_OCTAVES, posinf=_OCTAVES) / _OCTAVES, -1, 1)
    alpha = np.round(np.abs(amount) * _STEPS) / _STEPS
    colour = np.where(amount[..., None] < 0, UNDER, OVER)
    return np.concatenate([colour, np.round(alpha * 255)[..., None]], axis=-1).astype(np.uint8)


def scale_css() -> list[tuple[str, str]]:
    """The legend of `tint`: label and CSS colour, from a quarter of the intended load to four times."""
    ratios = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    labels = ["≤ ¼", "½", "as intended", "2 ×", "≥ 4 ×"]
    colours = (f"rgba({red}, {green}, {blue}, {alpha / 255:.2f})" for red, green, blue, alpha in tint(ratios).tolist())
    return list(zip(labels, colours, strict=True))


def _layer(layer: int, steps: Array, shares_TE: Array, real: float) -> Plot:
    """One layer's picture: `shares_TE` of all routing slots, zero experts last; `real` is what real ones should get."""
    experts = shares_TE.shape[1] - 1
    ratio_TE = shares_TE[:, :experts] * experts / real
    zero_T = shares_TE[:, experts]
    has_zero = real < 1

    def paint(figure: Figure, axes: Axes) -> None:
        axes.remove()
        grid = figure.add_gridspec(2, 1, height_ratios=(8, 1)) if has_zero else figure.add_gridspec(1, 1)
        top = figure.add_subplot(grid[0])
        _picture(top, steps, _binned(ratio_TE))
        top.set_ylabel("expert")
        top.set_ylim(0, 1)
        top.set_yticks([0, 1], ["0", f"{experts - 1}"])
        bottom = top
        if has_zero:
            top.tick_params(labelbottom=False)
            bottom = figure.add_subplot(grid[1])
            _picture(bottom, steps, zero_T[:, None] / (1 - real))
            bottom.set_yticks([0.5], ["zero"], color=INK)
        plain_ticks(bottom.xaxis, 5, whole=True)
        bottom.set_xlabel("step")

    last = ratio_TE[-1]
    told = f"busiest {fixed(float(last.max()), 2)} ×, idlest {fixed(float(last.min()), 2)} ×"
    told += f", zero {percent(float(zero_T[-1]))}" if has_zero else ""
    summary = f"Load of the experts of layer {layer} over the steps. At the last step, over the intended load: {told}."
    return plot(f"load-{layer}", paint, title=f"Layer {layer}", summary=summary, caption=told, size=(340, 230))


def _picture(axes: Axes, steps: Array, ratio_TE: Array) -> None:
    edges = (float(steps[0]), max(float(steps[-1]), float(steps[0]) + 1))
    axes.imshow(tint(ratio_TE.T), extent=(*edges, 0, 1), aspect="auto", origin="lower", interpolation="none")
    axes.grid(False)
    axes.tick_params(length=0)


def _binned(ratio_TE: Array) -> Array:
    """At most `_ROWS` experts: neighbours averaged where there are more."""
    groups = np.array_split(ratio_TE, min(_ROWS, ratio_TE.shape[1]), axis=1)
    return np.stack([group.mean(axis=1) for group in groups], axis=1)


def _intended(real: float) -> str:
    zero = f" and all zero experts together {percent(1 - real)}" if real < 1 else ""
    return f"Intended: every real expert gets an equal part of {percent(real)} of the slots{zero}."


def _note(layers: int, drawn: int, experts: int) -> str:
    notes = []
    if drawn < layers:
        notes.append(f"{drawn} of {layers} layers are shown, evenly spread.")
    if experts > _ROWS:
        notes.append(f"Each row averages {count(experts / _ROWS)} neighbouring experts.")
    return " ".join(notes)


def _is_load(value: object) -> bool:
    """A list of layers, each a list of at least two numbers, all of one length."""
    if not isinstance(value, list) or not value or not all(isinstance(row, list) for row in value):
        return False
    lengths = {len(row) for row in value}
    return len(lengths) == 1 and lengths.pop() > 1 and all(isinstance(x, int | float) for row in value for x in row)
