"""Which way each parameter's gradients go: nowhere, by buckets, or by rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from homegrown.config import ConfigError, ModelConfig
from homegrown.optim import Group as OptimGroup
from homegrown.optim.slots import Slot, WeightSlot
from homegrown.parallel.buckets import Item
from homegrown.parallel.collectives import all_reduce
from homegrown.parallel.exchange import Exchange
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import KINDS, Shard
from homegrown.parallel.lazyrows import ReplicatedRows, no_rows
from homegrown.parallel.pieces import Piece, Team, deal, extents, model_shapes, piece_borders, team_of, update_cost


@dataclass
class Routes:
    """Ways of all parameters of a rank, in the order in which all ranks go through them.

    Attributes:
        alone: slots of parameters whose part nobody else holds.
        dense: exchanges in buckets, with the names that each carries.
        lazy: exchanges of rows, by name.
        row_lazy: names whose groups leave unused rows alone, whichever way they go.
        shared: names that the first and the last stage hold in common.
    """

    parameters: Mapping[str, nn.Parameter]
    alone: dict[str, WeightSlot] = field(default_factory=dict)
    dense: list[tuple[list[str], Exchange]] = field(default_factory=list)
    lazy: dict[str, ReplicatedRows] = field(default_factory=dict)
    row_lazy: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()

    def slots(self) -> Iterator[Slot]:
        """Everything that is owned here."""
        yield from self.alone.values()
        for _, exchange in self.dense:
            yield from exchange.slots.values()
        for rows in self.lazy.values():
            yield from rows.slots

    def is_lazy(self, name: str) -> bool:
        """Whether a parameter's gradients are rows."""
        return name in self.lazy or (name in self.alone and name in self.row_lazy)

    def agree(self, names: Sequence[str], present: Collection[str], groups: Groups) -> list[str]:
        """Which of these parameters have a gradient on any rank that holds them, `present` on this one."""
        if next(iter(self.parameters.values())).is_meta:
            return [name for name in names if name in present]  # numbers say nothing there
        flags = torch.tensor([name in present for name in names], dtype=torch.int32)
        flags = all_reduce(flags, groups["tokens"])
        if self.shared:
            where = torch.tensor([name in self.shared for name in names])
            flags[where] = all_reduce(flags[where], groups["words"])
        return [name for name, flag in zip(names, flags.tolist(), strict=True) if flag]

    def reduce(self, active: Collection[str]) -> None:
        """Bring the gradients of these parameters, all of them present, to their owners."""
        chosen = set(active)
        for names, exchange in self.dense:
            exchange.reduce({name: self.parameters[name].grad for name in names if name in chosen})
        for name, rows in self.lazy.items():
            if name in chosen:
                rows.reduce(self.parameters[name].grad)
        for name in chosen - self.alone.keys():
            self.parameters[name].grad = None

    def publish(self, active: Collection[str]) -> None:
        """Bring the owners' masters of these parameters to all weights."""
        chosen = set(active)
        for names, exchange in self.dense:
            exchange.publish([name for name in names if name in chosen])
        for name, rows in self.lazy.items():
            if name in chosen:
                rows.publish()

    def publish_all(self) -> None:
        """Bring all masters to all weights."""
        for slot in self.alone.values():
            slot.publish()
        for _, exchange in self.dense:
            exchange.publish()
        for rows in self.lazy.values():
            rows.publish_all()

    def staging(self) -> int:
        """Most bytes that buckets under way take."""
        return max((exchange.staging() for _, exchange in self.dense), default=0)


def make_routes(
    parameters: Mapping[str, nn.Parameter],
    shapes: Mapping[str, tuple[int, ...]],
    group_of: Mapping[str, OptimGroup],
    groups: Groups,
    model: ModelConfig,
    *,
    steps: int,
    row_lazy: Collection[str],
    gradient_dtype: torch.dtype | None,
    bucket_bytes: int,
) -> Routes:
    """The ways of all parameters of a rank; masters are made of their weights, on all ranks at once.

    Args:
        parameters: this rank's parts.
        shapes: whole shapes.
        group_of: optimizer groups.
        groups: of this rank.
        model: the whole model.
        steps: Newton-Schulz iterations, for the balance between owners.
        row_lazy: names of optimizer groups whose gradients are rows.
        gradient_dtype: see `ShardedOptimizer`.
        bucket_bytes: see `ShardedOptimizer`.
    """
    teams = {name: team_of(name, groups.layout, groups.rank, model) for name in parameters}
    routes = Routes(
        parameters,
        row_lazy=frozenset(name for name in parameters if group_of[name].name in row_lazy),
        shared=frozenset(name for name, team in teams.items() if team.kind == "words"),
    )
    by_kind: dict[str, list[str]] = defaultdict(list)
    for name, team in teams.items():
        borders = _local_borders(name, shapes[name], group_of[name], groups, model)
        if len(team.ranks) == 1:
            routes.alone[name] = WeightSlot(name, parameters[name], borders)
        elif team.kind == "row_replicas" and name in routes.row_lazy:
            routes.lazy[name] = ReplicatedRows(
                name, parameters[name], borders, groups[team.kind], gradient_dtype or parameters[name].dtype
            )
        else:
            by_kind[team.kind].append(name)
    for kind in sorted(by_kind, key=KINDS.index):
        items = _dealt(by_kind[kind], shapes, group_of, teams, groups, model, steps)
        routes.dense += _exchanges(items, parameters, teams, groups, gradient_dtype, bucket_bytes)
    return routes


def whole_shape(name: str, weight: Tensor, groups: Groups, model: ModelConfig) -> tuple[int, ...]:
    """Shape of the whole parameter of which `weight` is this rank's part.

    Raises:
        ConfigError: the model has no such parameter, or this rank holds another part of it.
    """
    shape = model_shapes(model).get(name)
    if shape is None:
        raise ConfigError(f"parameter {name!r} of shape {list(weight.shape)}: the model has none of this name")
    shard = groups.layout.shard(name, shape, groups.rank, model)
    if shard is None:
        raise ConfigError(f"parameter {name!r}: it does not belong to the pipeline stage of rank {groups.rank}")
    if shard.local_shape != tuple(weight.shape):
        raise ConfigError(
            f"parameter {name!r} has shape {list(weight.shape)}: rank {groups.rank} holds {list(shard.local_shape)} of "
            f"{list(shape)}"
        )
    return shape


def no_gradient(weight: Tensor, lazy: bool) -> Tensor:
    """What a parameter's gradient is where no token of this rank has used it."""
    return no_rows(weight.detach()) if lazy else torch.zeros_like(weight, dtype=weight.grad_dtype)


def _local_borders(
    name: str, shape: tuple[int, ...], group: OptimGroup, groups: Groups, model: ModelConfig
) -> list[int]:
    """Borders of the pieces within this rank's rows."""
    shard = groups.layout.shard(name, shape, groups.rank, model) or Shard(shape, 0, 0, shape[0])
    start, stop = (0, shape[0]) if shard.dim else (shard.start, shard.stop)
    return [border for border in piece_borders(shape, group) if start <= border <= stop]


def _dealt(
    names: Iterable[str],
    shapes: Mapping[str, tuple[int, ...]],
    group_of: Mapping[str, OptimGroup],
    teams: Mapping[str, Team],
    groups: Groups,
    model: ModelConfig,
    steps: int,
) -> list[Item]:
    """The pieces of parameters that travel within the same ranks, each with its owner."""
    items, costs = [], []
    for name in names:
        shape, group = shapes[name], group_of[name]
        for start, stop in pairwise(piece_borders(shape, group)):
            piece, own = Piece(name, start, stop), (stop - start, *shape[1:])
            held = tuple(extents(piece, shape, teams[name], groups.layout, model))
            if any(held):
                items.append(Item(piece, own, 0, held))
                costs.append(update_cost(own, group, steps))
    first = teams[items[0].piece.name]
    whole = Team(first.kind, first.ranks, max(teams[item.piece.name].columns for item in items))
    owners = deal(costs, [_columns(item, whole) for item in items], whole)
    return [item._replace(owner=owner) for item, owner in zip(items, owners, strict=True)]


def _columns(item: Item, team: Team) -> list[int]:
    """Columns of a team that hold a part of a piece."""
    return [column for column in range(team.columns) if item.extents[column % len(item.extents)] is not None]


def _exchanges(
    items: Iterable[Item],
    parameters: Mapping[str, nn.Parameter],
    teams: Mapping[str, Team],
    groups: Groups,
    gradient_dtype: torch.dtype | None,
    bucket_bytes: int,
) -> Iterator[tuple[list[str], Exchange]]:
    together: dict[tuple[int, str], list[Item]] = defaultdict(list)
    for item in items:
        name = item.piece.name
        together[teams[name].columns, str(parameters[name].dtype)].append(item)
    for key in sorted(together):
        names = list(dict.fromkeys(item.piece.name for item in together[key]))
        weights = {name: parameters[name] for name in names}
        team = teams[names[0]]
        dtype = gradient_dtype or parameters[names[0]].dtype
        yield names, Exchange(groups[team.kind], team, together[key], weights, dtype, bucket_bytes)
