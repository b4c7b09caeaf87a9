"""A serving plan in words: amounts with units, layouts, traffic, what was assumed."""

from __future__ import annotations

from homegrown.plan.quantity import Interval
from homegrown.plan.serving.names import SCALE, Unit
from homegrown.plan.serving.plan import ServePlan
from homegrown.plan.serving.setup import Pool, Requests


def amount(value: float, unit: Unit) -> str:
    """A figure in a unit, with three significant digits: 43.3 ms, $0.225, 15,000,000 tokens."""
    scaled = value / SCALE.get(unit, 1.0)
    if unit in ("devices", "requests", "tokens", "tok/s", "req/s") and scaled >= 100:
        text = f"{round(scaled):,}"
    else:
        text = _significant(scaled)
    if unit == "USD":
        return f"${text}"
    return f"{text} {unit.replace('us', 'µs')}"


def range_of(figure: Interval, unit: Unit) -> str:
    """The ends of an interval; a dash where it has no width."""
    if figure.high - figure.low <= 1e-9 * abs(figure.value):
        return "–"
    return f"{amount(figure.low, unit)} – {amount(figure.high, unit)}"


def layout(pool: Pool) -> str:
    """A layout as people name them: EP32, attention TP4 x DP8, how tokens reach experts."""
    groups = f"attention TP{pool.tp} x DP{pool.groups}" if pool.groups > 1 else f"TP{pool.tp}"
    how = "all-reduced" if pool.exchange == "replicated" else "dispatched"
    return f"{groups}, EP{pool.experts_over} {how}" if pool.experts_over > 1 else groups


def requests(kind: Requests) -> str:
    """Requests alike: 4,000 tokens in (56 % found), 800 out."""
    found = f" ({kind.hit_rate:.0%} found)" if kind.hit_rate else ""
    return f"{kind.input:,.0f} tokens in{found}, {kind.output:,.0f} out"


def traffic(plan: ServePlan) -> str:
    """The traffic of a plan, its rate and the bounds it keeps."""
    mix = plan.setup.traffic.mix
    whole = sum(kind.share for kind in mix)
    kinds = "; ".join((f"{kind.share / whole:.0%} with " if len(mix) > 1 else "") + requests(kind) for kind in mix)
    bounds = [
        f"{name} at most {amount(bound, unit)}"
        for name, bound, unit in (
            ("first token", plan.targets.ttft, _S), ("each token", plan.targets.tpot, _MS),
        )
        if bound
    ]  # fmt: skip
    return ", ".join([f"{plan.rate:.3g} requests/s of {kinds}", *bounds])


_S: Unit = "s"
_MS: Unit = "ms"


def assumptions(plan: ServePlan) -> list[str]:
    """What a reader must know to judge the figures."""
    precision, speculation = plan.setup.precision, plan.setup.speculation
    lines = [
        f"weights {precision.weights}, experts {precision.expert_weights}, keys {precision.keys}, attention computed "
        f"in {precision.core}, tokens dispatched in {precision.dispatch} and combined in bf16",
        f"at most {plan.decode.memory_share:.0%} of a device's memory for weights and keys",
        "live traffic: arrivals at random, lengths that differ as in public traces, pools not quite full"
        if plan.setup.traffic.live
        else "steady traffic: equal requests, pools always full",
    ]
    if speculation.steps:
        lines.append(
            f"{speculation.steps} tokens guessed a step, each right with probability {speculation.acceptance:g}: "
            f"{speculation.accepted:.2f} tokens a step"
        )
    if any(group.experts and group.experts.zero for group in plan.shape.layers):
        aware = "are not sent anywhere" if plan.decode.zero_aware else "are sent like others"
        lines.append(f"tokens of zero-computation experts {aware}")
    spare = plan.devices - plan.figures["devices"].value
    lines.append(
        f"{plan.devices:,} devices in whole instances; {max(spare, 0):,.0f} of them are beyond what the rate needs"
    )
    if "usd_per_million" not in plan.figures:
        lines.append("no price of a device-hour is known: give one with --price")
    return lines


def _significant(value: float, digits: int = 3) -> str:
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    places = max(0, digits - 1 - int(f"{abs(rounded):e}".split("e")[1]))
    return f"{rounded:,.{places}f}"
