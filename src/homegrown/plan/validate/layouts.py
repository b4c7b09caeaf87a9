"""Layouts of a run, with what its publication leaves open.

Where a size is not published, a file says what it may have been and how it was probably chosen: `{ best_of = [...] }`,
as people choose who try them all, so the planner takes the fastest that fits; `{ any_of = [...] }`, not known, and each
as likely as the others, which makes intervals wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any, get_args, get_type_hints

from homegrown.config import ConfigError
from homegrown.plan.layout import Layout
from homegrown.plan.reading import Entry, did_you_mean

SIZES = ("tp", "cp", "pp", "dp", "ep", "etp", "embp", "parts", "micro_batch")
FLAGS = ("sequence_parallel", "offload", "balanced", "overlap", "fused")
WORDS: Mapping[str, tuple[Any, ...]] = {
    name: get_args(get_type_hints(Layout)[name])
    for name in ("schedule", "recompute", "zero", "precision", "dispatch", "optimizer")
}
KNOWN = (*SIZES, *WORDS, *FLAGS, "comm_share", "layers")
MOST = 2000
"""Layouts that a run may leave open: more are no longer an input but a search."""

Choices = dict[str, tuple[Any, ...]]


def layout_cases(entry: Entry, sequence: int) -> tuple[tuple[Layout, ...], ...]:
    """Cases of equal likelihood, in each the layouts of which the fastest that fits was run.

    Args:
        entry: inputs of a run: `batch`, `devices`, `layout`.

    Raises:
        ConfigError: a size is missing or impossible, or no combination of what is left open divides.
    """
    inner = Entry(entry.take("layout", {}), entry.at("layout"), entry.origin)
    given = entry.take("layout", {})
    devices = entry.whole("devices") if "devices" in entry or "dp" not in given else 0
    best: Choices = {}
    unknown: Choices = {}
    for key in given:
        if key not in KNOWN:
            raise ConfigError(
                f"{inner.where}: unknown key {key!r}{did_you_mean(key, KNOWN)}; known: {', '.join(KNOWN)}"
            )
        _sort(inner, key, best, unknown)
    _sort(entry, "batch", best, unknown)
    if prod(len(options) for options in (*best.values(), *unknown.values())) > MOST:
        raise ConfigError(f"{entry.where}: more than {MOST:,} layouts are left open; `homegrown plan` searches")
    cases, problems = [], []
    for case in _combined(unknown):
        layouts = []
        for choice in _combined(best):
            try:
                layouts.append(_layout({**case, **choice}, sequence, devices, inner.where))
            except ConfigError as problem:
                problems.append(problem)
        if layouts:
            cases.append(tuple(layouts))
    if not cases:
        raise problems[0]
    return tuple(cases)


def _sort(entry: Entry, key: str, best: Choices, unknown: Choices) -> None:
    """Notes the options of an input: one if it is known, else those among which the best is taken, or any."""
    value = entry.take(key)
    if not isinstance(value, Mapping):
        best[key] = (_checked(entry, key, value),)
        return
    kind, options = next(iter(value.items()), ("", None))
    if len(value) != 1 or kind not in ("best_of", "any_of") or not isinstance(options, list) or not options:
        raise ConfigError(f"{entry.at(key)} = {value!r}: what is open is {{ best_of = [...] }} or {{ any_of = [...] }}")
    (unknown if kind == "any_of" else best)[key] = tuple(_checked(entry, key, option) for option in options)


def _checked(entry: Entry, key: str, value: Any) -> Any:
    name = f"{entry.at(key)} = {value!r}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key in (*SIZES, "batch") and not (whole and value >= 1):
        raise ConfigError(f"{name}: must be a whole number of at least 1")
    if key in FLAGS and not isinstance(value, bool):
        raise ConfigError(f"{name}: must be true or false")
    if key in WORDS and (isinstance(value, bool) or value not in WORDS[key]):
        raise ConfigError(f"{name}: must be one of {', '.join(map(str, WORDS[key]))}")
    if key == "layers":
        return _layers(name, value)
    if key == "comm_share" and not ((whole or isinstance(value, float)) and 0 <= value < 1):
        raise ConfigError(f"{name}: must be a share of the device, at least 0 and below 1")
    return value


def _layers(name: str, value: Any) -> tuple[int, ...]:
    """Layers of each pipeline part, from pairs: so many parts in a row with so many layers each."""
    pairs: list[tuple[int, int]] = []
    for pair in value if isinstance(value, list) else [value]:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(size) is not int or size < 0 for size in pair):
            raise ConfigError(f"{name}: must be a list of pairs, parts in a row and layers of each: [[1, 0], [126, 1]]")
        pairs.append((pair[0], pair[1]))
    return tuple(layers for parts, layers in pairs for _ in range(parts))


def _combined(choices: Choices) -> list[dict[str, Any]]:
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def _layout(fields: dict[str, Any], sequence: int, devices: int, where: str) -> Layout:
    """The layout; `dp` is what the devices leave, and several parts interleave, where nothing else is given."""
    replica = fields.get("pp", 1) * fields.get("tp", 1) * fields.get("cp", 1)
    dp = fields.get("dp", max(1, devices // replica))
    if devices and dp * replica != devices:
        wrong = f"times dp = {dp} makes {dp * replica}, not" if "dp" in fields else "must divide"
        raise ConfigError(f"{where}: pp * tp * cp = {replica} {wrong} devices = {devices}")
    try:
        schedule = "interleaved" if fields.get("parts", 1) > 1 else "1f1b"
        return Layout(**{"schedule": schedule, **fields, "dp": dp}, sequence=sequence)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
