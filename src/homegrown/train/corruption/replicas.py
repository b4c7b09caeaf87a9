"""Copies of weights: every holder of a shard must have the bits to which its owner's master rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from homegrown.config import TrainConfig
from homegrown.optim import group_of
from homegrown.parallel.assembly import Assembly
from homegrown.parallel.collectives import all_reduce, gather, gather_objects
from homegrown.parallel.groups import Groups
from homegrown.parallel.pieces import Extent, Piece, Team, extents, model_shapes, piece_borders, team_of
from homegrown.parallel.zero import ShardedOptimizer
from homegrown.train.corruption.fault import Suspicion, accuse
from homegrown.train.corruption.fingerprint import fingerprint

CHECK = "copies of weights"
_TOLD = 16
"""Wrong copies that a rank tells the others of."""


class _Copy(NamedTuple):
    """What a column of a team holds of a piece."""

    piece: Piece
    column: int
    extent: Extent


@dataclass(frozen=True)
class _Wrong:
    """A copy that differs from its owner's master.

    Attributes:
        key: of the piece.
        column, holders: all who should have the same bits.
    """

    key: str
    column: int
    holders: tuple[int, ...]


class Replicas:
    """Compares weights with the masters that they were rounded from, on all ranks together.

    It finds a bit that flipped in a weight, in a master or on the way from one to the other. Where a single process
    holds a float32 weight, weight and master are one, and there is nothing to compare.

    Args:
        assembly: of the model on this rank.
        optimizer: owner of the masters.
        config: the run.
        groups: of this rank.
    """

    def __init__(self, assembly: Assembly, optimizer: ShardedOptimizer, config: TrainConfig, groups: Groups) -> None:
        self._optimizer, self._groups = optimizer, groups
        self._weights: Mapping[str, Tensor] = {
            name: parameter.detach() for name, parameter in assembly.named_parameters()
        }
        self._copies: dict[Team, list[_Copy]] = defaultdict(list)
        for name, shape in model_shapes(config.model).items():
            if name not in self._weights:
                continue
            team = team_of(name, groups.layout, groups.rank, config.model)
            for start, stop in pairwise(piece_borders(shape, group_of(name, shape, config.optim, config.model))):
                piece = Piece(name, start, stop)
                for column, extent in enumerate(extents(piece, shape, team, groups.layout, config.model)):
                    if extent is not None:
                        self._copies[team].append(_Copy(piece, column, extent))

    @torch.no_grad()
    def check(self, step: int) -> None:
        """Compare; after a step, or any other time between steps. Collective.

        Raises:
            CorruptionError: on all ranks, if some have other bits than they should.
        """
        state, kind = self._optimizer.state(), "/master"
        masters = {key.removesuffix(kind): tensor for key, tensor in state.items() if key.endswith(kind)}
        wrong = [each for team, copies in self._copies.items() for each in self._compare(team, copies, masters)]
        world = self._groups["world"]
        if int(gather(torch.tensor([len(wrong)]), world).sum()):
            accuse(step, CHECK, self._suspects(wrong, masters), world)

    def _suspects(self, wrong: list[_Wrong], masters: Mapping[str, Tensor]) -> dict[int, Suspicion]:
        """Who is at fault, from what all ranks found. Collective."""
        world = self._groups["world"]
        differ: dict[_Wrong, set[int]] = defaultdict(set)
        for rank, found in enumerate(gather_objects(wrong[:_TOLD], world)):
            for each in found:
                differ[each].add(rank)
        owned = gather_objects([each.key for each in differ if each.key in masters], world)
        owners = {key: rank for rank, keys in enumerate(owned) for key in keys}
        suspects: dict[int, Suspicion] = {}
        for each in sorted(differ, key=lambda each: (each.key, each.column)):
            for rank, what in _blamed(each, differ[each], owners.get(each.key)).items():
                suspects.setdefault(rank, Suspicion(each.key, what))
        return suspects

    def _compare(self, team: Team, copies: list[_Copy], masters: Mapping[str, Tensor]) -> Iterator[_Wrong]:
        """The copies of this rank that differ from their masters."""
        device = next(iter(self._weights.values())).device
        if len(team.ranks) == 1:
            copies = [copy for copy in copies if not self._is_master(copy, masters)]
        due = torch.zeros(len(copies), dtype=torch.int64, device=device)
        for number, copy in enumerate(copies):
            master = masters.get(copy.piece.key)
            if master is not None:
                part = master.narrow(copy.extent.dim, copy.extent.start, copy.extent.stop - copy.extent.start)
                due[number] = fingerprint(part.to(self._weights[copy.piece.name].dtype)).to(device)
        # One owner each, all others add zeros.
        due = all_reduce(due, self._groups[team.kind]) if len(team.ranks) > 1 else due
        column = team.ranks.index(self._groups.rank) % team.columns
        own = [number for number, copy in enumerate(copies) if copy.column == column]
        if not own:
            return
        here = torch.stack([fingerprint(self._held(copies[number])) for number in own])
        for index in (here != due[own]).nonzero().flatten().tolist():
            yield _Wrong(copies[own[index]].piece.key, column, team.ranks[column :: team.columns])

    def _held(self, copy: _Copy) -> Tensor:
        return self._weights[copy.piece.name][slice(*copy.extent.local)]

    def _is_master(self, copy: _Copy, masters: Mapping[str, Tensor]) -> bool:
        return self._held(copy).data_ptr() == masters[copy.piece.key].data_ptr()


def _blamed(wrong: _Wrong, differ: set[int], owner: int | None) -> dict[int, str]:
    """Who is at fault for copies of a piece that differ from its owner's master, and how that shows."""
    if differ != set(wrong.holders):
        others = len(wrong.holders) - len(differ)
        return dict.fromkeys(
            differ, f"has other bits than its owner, rank {owner}, and {others} of {len(wrong.holders)} holders have"
        )
    if owner is None:
        return dict.fromkeys(differ, "has other bits than its owner's master, and no rank owns it")
    if len(wrong.holders) > 1:
        return {owner: f"has a master of other bits than all {len(wrong.holders)} copies of it"}
    return dict.fromkeys(
        sorted({owner, *wrong.holders}),
        f"differs between its master on rank {owner} and its only copy on rank {wrong.holders[0]}",
    )
