"""Shapes of published models as data files describe them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homegrown.config.errors import ConfigError
from homegrown.config.files import build
from homegrown.plan.facts import Attention, Experts, Layers, Shape
from homegrown.plan.reading import Entry, Origin
from homegrown.plan.shapes import parameters
from homegrown.plan.units import COUNT
from homegrown.report.numbers import parameters as told

_NUMBERS = ("positions", "ngram_tables", "ngram_rows", "ngram_width", "draft_steps", "context")
_SWITCHES = ("bias", "tied", "dropout")
_ROUNDING = 0.05
"""Share by which a published number of parameters may differ from the count: it is rounded, and counting differs."""


@dataclass(frozen=True)
class Published:
    """What a model's authors say it has.

    Attributes:
        total: parameters.
        active: those that a token uses; None where they were not said, or all are.
    """

    total: float
    active: float | None = None


@dataclass(frozen=True)
class Model:
    """A published model."""

    shape: Shape
    published: Published | None = None


def read_model(name: str, entry: Entry) -> Model:
    """A model from its table.

    Raises:
        ConfigError: a field is missing, unknown, of the wrong type, not positive, or contradicts another.
    """
    common = entry.take("attention")
    groups = entry.take("layers")
    if not isinstance(groups, list) or not groups:
        raise entry.missing("layers", "a list of tables, each of so many layers alike")
    draft, steps = entry.take("draft"), entry.whole("draft_steps", 0, least=0)
    if (draft is None) != (steps == 0):
        raise ConfigError(f"{entry.at('draft_steps')} = {steps}: a draft head needs both 'draft' and at least one step")
    numbers: dict[str, Any] = {key: entry.whole(key, 0, least=0) for key in _NUMBERS}
    numbers |= {key: entry.flag(key, default=False) for key in _SWITCHES}
    shape = Shape(
        name=name,
        title=entry.text("title"),
        hidden=entry.whole("hidden"),
        vocab=entry.whole("vocab"),
        layers=tuple(
            _layers(table, f"{entry.where}.layers[{place}]", common, None) for place, table in enumerate(groups)
        ),
        draft=None if draft is None else _layers(draft, entry.at("draft"), common, 1),
        gated=entry.flag("gated", default=True),
        source=entry.text("source"),
        **numbers,
    )
    published = _published(entry)
    entry.texts("aliases")
    entry.done()
    _check_size(shape, published, entry)
    return Model(shape, published)


def _published(entry: Entry) -> Published | None:
    if "published" not in entry:
        return None
    inner = Entry(entry.take("published"), entry.at("published"), Origin())
    if "total" not in inner:
        raise inner.missing("total", "a number of parameters, as in '671B'")
    total = COUNT(inner.take("total"), inner.at("total"))
    active = COUNT(inner.take("active"), inner.at("active")) if "active" in inner else None
    inner.done()
    if active is not None and active > total:
        raise ConfigError(f"{inner.at('active')} = {active:g}: must not be more than all parameters, {total:g}")
    return Published(total, active)


def _check_size(shape: Shape, published: Published | None, entry: Entry) -> None:
    """Sizes that do not make the published number of parameters are sizes of another model."""
    if published is None:
        return
    counted = parameters(shape).total
    if abs(counted / published.total - 1) > _ROUNDING:
        raise ConfigError(
            f"{entry.at('published')}.total = {told(published.total)}: contradicts the sizes of its layers, which make "
            f"{told(counted)} parameters"
        )


def _layers(table: Any, where: str, common: object, count: int | None) -> Layers:
    """A group of layers; `common` is the attention of groups that have none of their own."""
    entry = Entry(table, where, Origin())
    attention = entry.take("attention", common)
    if attention is None:
        raise entry.missing("attention", "a table, here or for all layers")
    experts = entry.take("experts")
    dense = entry.take("dense", [])
    if not isinstance(dense, list) or not all(_whole(width) for width in dense):
        raise ConfigError(f"{entry.at('dense')} = {dense!r}: must be a list of widths, as in [18432]")
    if experts is None and not dense:
        raise entry.missing("dense", "a list of widths, as in [18432], unless there are 'experts'")
    layers = Layers(
        count=entry.whole("count", count),
        attention=_attention(attention, entry.at("attention")),
        sublayers=entry.whole("sublayers", 1),
        dense=tuple(dense),
        experts=None if experts is None else _experts(experts, entry.at("experts")),
        overlap=entry.flag("overlap", default=False),
    )
    entry.done()
    return layers


def _attention(table: object, where: str) -> Attention:
    attention = _numbers(Attention, {"kv_heads": _of(table, where).get("heads", 0)} | _of(table, where), where)
    for key in ("heads", "kv_heads", "query", "value"):
        if getattr(attention, key) < 1:
            raise ConfigError(f"{where}.{key} = {getattr(attention, key)}: must be at least 1")
    if attention.heads % attention.kv_heads:
        raise ConfigError(f"{where}.kv_heads = {attention.kv_heads}: must divide the {attention.heads} heads")
    if attention.kind == "mla" and not (attention.kv_lora and attention.query > attention.rope > 0):
        raise ConfigError(
            f"{where}: mla needs kv_lora, and rope lanes that are part of query = {attention.query} (nope + rope)"
        )
    if attention.kind == "gqa" and (attention.kv_lora or attention.q_lora):
        raise ConfigError(f"{where}: q_lora and kv_lora belong to kind = 'mla', not to 'gqa'")
    return attention


def _experts(table: object, where: str) -> Experts:
    experts = _numbers(Experts, {"real": float(_of(table, where).get("topk", 0))} | _of(table, where), where)
    if not (experts.routed >= 1 and experts.width >= 1 and 1 <= experts.topk <= experts.routed + experts.zero):
        raise ConfigError(
            f"{where}: needs at least one routed expert and width, and topk = {experts.topk} from 1 to the "
            f"{experts.routed + experts.zero} experts"
        )
    if not 0 <= experts.real <= experts.topk or (not experts.zero and experts.real != experts.topk):
        raise ConfigError(
            f"{where}.real = {experts.real:g}: at most topk = {experts.topk} choices compute, and all of them where "
            "there are no zero-computation experts"
        )
    return experts


def _of(table: object, where: str) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} = {table!r}: must be a table")
    return dict(table)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _numbers(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    """A dataclass of numbers, none of which is negative."""
    for item in dataclasses.fields(kind):
        if item.name not in table and item.default is dataclasses.MISSING:
            raise ConfigError(f"{where}: {item.name!r} is missing")
    value = build(kind, table, where)
    for item in dataclasses.fields(kind):
        number = getattr(value, item.name)
        if isinstance(number, int | float) and number < 0:
            raise ConfigError(f"{where}.{item.name} = {number!r}: must not be negative")
    return value
