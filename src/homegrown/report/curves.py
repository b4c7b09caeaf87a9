"""Plots over the steps or the time of a run. Each gives None where the run recorded nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homegrown.report.numbers import quantity
from homegrown.report.run import Run
from homegrown.report.series import Array, column, smooth, thin
from homegrown.report.svg import INK, MUTED, SERIES, WIDE, Plot, plain_ticks, plot
from homegrown.report.text import short

_POINTS = 400
"""Points of a line; more than the pixels of a narrow figure would show."""
_SMALL = (460, 220)
_CLOCKS = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
"""Seconds of a unit of time, and its name; the largest is used of which the run lasted three."""
_MARKED = 50
"""Skipped steps that get a line of their own."""
_HEALTHY = 0.1
"""R_g below which the balance loss stays out of the language loss's way (arXiv 2509.01322 section 3)."""

TERMS = {
    "lm_loss": ("Next token", "nats per token"),
    "mtp_loss": ("Multi-token prediction", "nats per token"),
    "indexer_loss": ("Sparse-attention indexer", "KL, nats"),
    "balance_loss": ("Device-level balance", "weighted"),
    "z_loss": ("Hidden z-loss", "weighted"),
    "loss": ("Total", "weighted sum"),
}
"""Keys of a train line that hold a loss term: its name and its unit."""


def bits_per_byte(run: Run) -> Plot | None:
    """Training and held-out bits per byte over the steps, with the compressors as level lines."""
    steps, train = column(run.train, "step"), column(run.train, "bpb")
    held_steps, held = column(run.evals, "step"), column(run.evals, "bpb")
    if not np.isfinite(train).any() and not np.isfinite(held).any():
        return None
    window = _window(len(train))
    mean = f"mean of {window} neighbouring steps, over the range of the single steps"

    def paint(_: Figure, axes: Axes) -> None:
        if np.isfinite(train).any():
            _band(axes, steps, train)
            _line(axes, steps, smooth(train, window), "training", SERIES[0])
        axes.plot(held_steps, held, "o-", color=SERIES[1], label="held out", markersize=5, linewidth=1.2)
        _compressors(axes, run.analysis.baselines)
        _scale(axes, np.concatenate([train, held, np.array([*run.analysis.baselines.values()])]))
        _dress(axes, "step", np.concatenate([steps, held_steps]))
        axes.legend(loc="best")

    return plot(
        "bpb",
        paint,
        title="Bits per byte",
        summary=_told("Training bits per byte", steps, train, "step")
        + _told(" Held-out bits per byte", held_steps, held, "step"),
        caption=f"Lower is better. Training: {mean if window > 1 else 'single steps'}.",
        size=(460, 330),
        wide=WIDE,
    )


def loss_terms(run: Run) -> list[Plot]:
    """One small plot per loss term that was recorded."""
    plots = (
        _over_steps(run, key, f"term-{key.replace('_', '-')}", name, unit, log=True)
        for key, (name, unit) in TERMS.items()
    )
    return [made for made in plots if made]


def missing_terms(run: Run) -> list[str]:
    """Names of the loss terms of which there is not one number."""
    return [name for key, (name, _) in TERMS.items() if not np.isfinite(column(run.train, key)).any()]


def learning_rate(run: Run) -> Plot | None:
    """The schedule's factor over the steps."""
    title = "Learning rate"
    return _over_steps(run, "lr_factor", "learning-rate", title, "Factor of each group's own rate", zero=True, raw=True)


def gradient_norm(run: Run) -> Plot | None:
    """The global gradient norm, with the steps marked that were skipped."""
    skipped = skipped_steps(run)
    clip = run.config.optim.clip_norm if run.config else 0.0

    def marks(axes: Axes) -> None:
        if clip:
            _level(axes, clip, f"clipped at {quantity(clip)}")
        if len(skipped):
            for step in skipped[:_MARKED]:
                axes.axvline(step, color=SERIES[1], linewidth=1, alpha=0.6)
            axes.plot(
                skipped, np.ones(len(skipped)), "X", color=SERIES[1], markersize=8, clip_on=False,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip

    told = f"✕ marks {len(skipped)} skipped step{'s' if len(skipped) > 1 else ''}" if len(skipped) else ""
    unit = f"Global L2 norm; {told or 'no step was skipped'}"
    return _over_steps(run, "grad_norm", "gradient-norm", "Gradient norm", unit, log=True, extra=marks)


def skipped_steps(run: Run) -> Array:
    """Steps whose update was left out."""
    lines = [line["step"] for line in run.train if line.get("skipped") is True]
    events = [line["step"] for line in run.events if line.get("event") == "skipped_step"]
    return np.array(sorted({*lines, *events}), dtype=np.float64)


def real_experts(run: Run) -> Plot | None:
    """Real experts a token, against the target that the bias controller holds."""
    target = target_experts(run)

    def mark(axes: Axes) -> None:
        if target is not None:
            _level(axes, target, f"target {quantity(target)}")

    unit = "Mean over tokens and layers"
    return _over_steps(run, "real_experts", "real-experts", "Real experts per token", unit, extra=mark)


def target_experts(run: Run) -> float | None:
    """K_e, the mean number of real experts per token that the run steers to; None without a readable config."""
    if run.config is None:
        return None
    model = run.config.model
    uniform = model.moe_topk * model.n_routed_experts / (model.n_routed_experts + model.zero_expert_num)
    return run.config.controller.target_experts or uniform


def active_parameters(run: Run) -> Plot | None:
    """Mean active parameters per token over the steps."""
    return _over_steps(run, "active_params", "active-over-time", "Active parameters per token", "Mean over tokens")


def router_health(run: Run) -> Plot | None:
    """R_g over the steps, with the level below which it is healthy."""
    unit = "Gradient of the balance loss over that of the language loss, R_g"

    def mark(axes: Axes) -> None:
        _level(axes, _HEALTHY, f"healthy below {_HEALTHY}")

    return _over_steps(run, "router_health", "router-health", "Router health", unit, log=True, extra=mark)


def router_similarity(run: Run) -> Plot | None:
    """Mean cosine similarity of the router's rows over the steps."""
    unit = "Mean pairwise cosine of the router's rows"
    return _over_steps(run, "router_similarity", "router-similarity", "Router similarity", unit, raw=True)


def tokens_per_second(run: Run) -> Plot | None:
    """Speed over the run's time."""
    return _over_time(run, "tokens_per_s", "tokens-per-second", "Training speed", "Tokens per second")


def peak_fraction(run: Run) -> Plot | None:
    """Achieved FLOP/s over the measured peak, over the run's time."""
    title = "Share of the measured peak"
    return _over_time(run, "peak_fraction", "peak-fraction", title, "Achieved over peak FLOP/s of matrix products")


def memory(run: Run) -> Plot | None:
    """Peak resident memory over the run's time."""
    return _over_time(run, "memory_bytes", "memory", "Memory", "Peak resident, GiB", raw=True, scale=2**-30)


def _over_steps(
    run: Run,
    key: str,
    name: str,
    title: str,
    unit: str,
    *,
    log: bool = False,
    zero: bool = False,
    raw: bool = False,
    extra: Callable[[Axes], None] | None = None,
) -> Plot | None:
    """A small plot of `key` over the steps: smoothed over its range unless `raw`; None if it has no number."""
    steps, values = column(run.train, "step"), column(run.train, key)
    if not np.isfinite(values).any():
        return None

    def paint(_: Figure, axes: Axes) -> None:
        _curve(axes, steps, values, raw)
        if log:
            _scale(axes, values)
        if zero:
            axes.set_ylim(bottom=0)
        if extra:
            extra(axes)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best")
        _dress(axes, "step", steps)

    return plot(name, paint, title=title, summary=_told(title, steps, values, "step"), caption=unit, size=_SMALL)


def _over_time(
    run: Run, key: str, name: str, title: str, unit: str, *, raw: bool = False, scale: float = 1.0
) -> Plot | None:
    """A small plot of `key` times `scale`, from zero, over the time since the start; None if it has no number."""
    seconds, values = column(run.train, "elapsed_s"), column(run.train, key) * scale
    if not np.isfinite(values + seconds).any():
        return None
    length, clock = next((size, word) for size, word in _CLOCKS if np.nanmax(seconds) >= 3 * size or size == 1)
    times = seconds / length

    def paint(_: Figure, axes: Axes) -> None:
        _curve(axes, times, values, raw)
        axes.set_ylim(bottom=0)
        _dress(axes, clock, times)

    return plot(name, paint, title=title, summary=_told(title, times, values, clock), caption=unit, size=_SMALL)


def _curve(axes: Axes, x: Array, y: Array, raw: bool) -> None:
    if raw:
        _line(axes, x, y, "", SERIES[0])
        return
    _band(axes, x, y)
    _line(axes, x, smooth(y, _window(len(y))), "", SERIES[0])


def _window(number: int) -> int:
    """Entries to smooth over: a fortieth of the run, odd, so that the mean stays centred."""
    return number // 80 * 2 + 1


def _line(axes: Axes, x: Array, y: Array, label: str, colour: str) -> None:
    x, mean, _, _ = thin(x, y, _POINTS)
    dots = "o" if len(x) < 3 else ""  # a line through one point shows nothing
    axes.plot(x, mean, color=colour, label=label or None, marker=dots, markersize=5)


def _band(axes: Axes, x: Array, y: Array) -> None:
    """The range of the single entries, faint, behind the smoothed line."""
    x, _, low, high = thin(x, y, _POINTS // 2)
    if len(x) < 3:
        return
    axes.fill_between(x, low, high, color=SERIES[0], alpha=0.2, linewidth=0)


def _level(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=label)


def _compressors(axes: Axes, baselines: dict[str, float]) -> None:
    """Level lines named at the left end, where the curves are still far above."""
    for name, value in baselines.items():
        if not math.isfinite(value):
            continue
        axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            short(name), (0, value), xycoords=("axes fraction", "data"), xytext=(4, 3),
            textcoords="offset points", va="bottom", color=MUTED, fontsize=11.5,
        )  # fmt: skip


def _scale(axes: Axes, values: Array) -> None:
    """A logarithmic y axis where the values are positive and span more than a factor of three."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 3 * values.min():
        axes.set_yscale("log")


def _dress(axes: Axes, across: str, x: Array) -> None:
    """Name the axes' ticks; x runs from the start of the run to its last entry in every plot."""
    end = float(np.nanmax(x)) or 1.0
    axes.set_xlim(-0.02 * end, 1.02 * end)
    axes.set_xlabel(across)
    plain_ticks(axes.xaxis, whole=across == "step")
    plain_ticks(axes.yaxis, 5)


def _told(what: str, x: Array, y: Array, across: str) -> str:
    """A curve in a sentence: where it starts and ends, and its range."""
    keep = np.isfinite(x) & np.isfinite(y)
    if not keep.any():
        return ""
    x, y = x[keep], y[keep]
    return (
        f"{what}: {quantity(float(y[0]))} at {across} {quantity(float(x[0]))}, {quantity(float(y[-1]))} at {across} "
        f"{quantity(float(x[-1]))}; lowest {quantity(float(y.min()))}, highest {quantity(float(y.max()))}."
    )
