"""Outcomes in words and numbers: what tables, pages and files say alike."""

from __future__ import annotations

from homegrown.plan.quantity import Interval
from homegrown.plan.validate.figures import Figure, significant
from homegrown.plan.validate.replay import Outcome
from homegrown.plan.validate.summary import Summary


def published(outcome: Outcome) -> str:
    """The figure as it was published: a value, a range or a bound."""
    figure, known = outcome.figure, outcome.published
    if known.low < known.high:
        return f"{figure.text(known.low, unit=False)} to {figure.text(known.high)}"
    return f"{known.bound} {figure.text(known.value)}".strip()


def predicted(outcome: Outcome) -> str:
    """What the planner says."""
    return outcome.figure.text(outcome.predicted.value)


def interval(figure: Figure, found: Interval) -> str:
    """The 80 % interval, three digits at each end."""
    if found.low == found.high:
        return "exact"
    size = figure.kind.units.get(figure.shown, 1.0)
    return f"{significant(found.low / size, 3)} to {significant(found.high / size, 3)}"


def error(outcome: Outcome) -> str:
    """The signed error."""
    return signed(outcome.error, points=outcome.figure.points)


def signed(share: float, *, points: bool = False) -> str:
    """A signed error in per cent, or in points of a share."""
    text = f"{100 * share:+.1f}"
    return f"{'0.0' if text in ('+0.0', '-0.0') else text} {'points' if points else '%'}"


def tolerance(outcome: Outcome) -> str:
    """The tolerance that was declared."""
    limit = outcome.published.tolerance
    return "" if limit is None else f"{significant(100 * limit, 3)} {'points' if outcome.figure.points else '%'}"


def held(outcome: Outcome) -> str:
    """Whether the published figure lies in the interval."""
    return {None: "", True: "in", False: "out"}[outcome.inside]


def verdict(outcome: Outcome) -> str:
    """Hit or miss, by the tolerance; by the interval where none was declared."""
    word = "miss" if outcome.missed else "hit"
    return f"({word})" if outcome.published.uncounted else word


def remark(outcome: Outcome) -> str:
    """Why it does not count, or else why it was missed."""
    return outcome.published.uncounted or outcome.reason


def name(outcome: Outcome) -> str:
    """The run, and the point of its series."""
    point = outcome.published.point
    return f"{outcome.run.id} @ {point}" if point else outcome.run.id


def counted(part: int, whole: int) -> str:
    """So many of so many."""
    return f"{part} of {whole}" if whole else ""


def summary_cells(summary: Summary) -> tuple[str, ...]:
    """A line of a summary: figures, mean error, largest, bias, inside, within."""
    return (
        str(summary.figures),
        f"{100 * summary.mean:.1f} %",
        f"{100 * summary.largest:.1f} %",
        signed(summary.bias),
        counted(summary.inside, summary.intervals),
        counted(summary.within, summary.tolerances),
    )


SUMMARY_HEADINGS = ("figures", "mean error", "largest", "bias", "in the interval", "in tolerance")
"""Of `summary_cells`."""
EXPLANATION = (
    "Errors are predicted over published, less one; positive, the planner says more. Intervals are of 80 %. A hit is "
    "within the tolerance. Figures in brackets do not count in the summary, for the reason that stands there."
)
