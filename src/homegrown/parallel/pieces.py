"""How parameters are cut into pieces, who holds what of a piece, and who owns it: pure data.

Pieces are what optimizer state, checkpoints and gradient norms are made of. They are a function of a parameter's name
and whole shape alone, so that whatever is kept piece by piece fits any layout.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from homegrown.config import ModelConfig, OptimConfig
from homegrown.model import Longcat
from homegrown.optim import Group, group_of
from homegrown.optim.groups import NGRAM_TABLES
from homegrown.parallel.layout import TABLE_BLOCKS, Layout, Shard, row_blocks

TOUCH = 1000.0
"""What updating a number costs beside the products: the floating-point operations that a device does in the time in
which it moves the number's master, state and gradient. It balances AdamW's pieces against Muon's."""


class Piece(NamedTuple):
    """Rows start..stop along the first axis of a parameter."""

    name: str
    start: int
    stop: int

    @property
    def key(self) -> str:
        """The piece's name in checkpoints."""
        return f"{self.name}@{self.start}:{self.stop}"


@functools.cache
def model_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Whole shape of every parameter of a model by name, in canonical order."""
    with torch.device("meta"):
        model = Longcat(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def piece_borders(shape: Sequence[int], group: Group) -> list[int]:
    """Rows at which the pieces of a parameter begin and end, 0 and all rows included.

    A Muon matrix is one piece; of a stack each index is one; other parameters are cut into blocks of rows, n-gram
    tables into so many that they spread over many ranks.
    """
    rows, width = shape[0], math.prod(shape[1:])
    if len(shape) > 2:
        return list(range(rows + 1))
    if group.optimizer == "muon":
        return [0, rows]
    return row_blocks(rows, width, TABLE_BLOCKS if group.name == NGRAM_TABLES else 1)


@functools.cache
def first_pieces(optim: OptimConfig, model: ModelConfig) -> dict[str, int]:
    """Number of every parameter's first piece among all pieces of the model; under "" how many there are."""
    first, total = {}, 0
    for name, shape in model_shapes(model).items():
        first[name] = total
        total += len(piece_borders(shape, group_of(name, shape, optim, model))) - 1
    return {**first, "": total}


def update_cost(shape: Sequence[int], group: Group, steps: int) -> float:
    """Floating-point operations that updating a piece of this shape is worth.

    A Newton-Schulz iteration on r rows and c ≥ r columns costs 2 r² c for the Gram matrix, 2 r³ for its square and
    2 r² c for the product with it.

    Args:
        shape: of the piece.
        group: of its parameter.
        steps: Newton-Schulz iterations.
    """
    cost = TOUCH * math.prod(shape)
    if group.optimizer == "muon":
        low, high = sorted(shape[-2:])
        cost += math.prod(shape[:-2]) * steps * (4.0 * low * low * high + 2.0 * low**3)
    return cost


class Extent(NamedTuple):
    """What a rank holds of a piece.

    Attributes:
        local: first and last row in the rank's own tensor; they are contiguous there.
        dim, start, stop: where it lies in the piece, along the axis by which the parameter is spread.
        numbers: how many.
    """

    local: tuple[int, int]
    dim: int
    start: int
    stop: int
    numbers: int


def extent_of(piece: Piece, shard: Shard | None) -> Extent | None:
    """What the holder of `shard` holds of a piece of the same parameter; `None` for nothing."""
    if shard is None:
        return None
    if shard.dim:
        numbers = (piece.stop - piece.start) * math.prod(shard.local_shape[1:])
        return Extent((piece.start, piece.stop), shard.dim, shard.start, shard.stop, numbers)
    start, stop = max(piece.start, shard.start), min(piece.stop, shard.stop)
    if start >= stop:
        return None
    numbers = (stop - start) * math.prod(shard.shape[1:])
    return Extent((start - shard.start, stop - shard.start), 0, start - piece.start, stop - piece.start, numbers)


@dataclass(frozen=True)
class Team:
    """Ranks among which gradients of some parameters travel.

    Attributes:
        kind: of group, see `layout.KINDS`.
        ranks: its members.
        columns: sets of members that hold the same; member i is in column i mod columns. More than one only for
            parameters that tensor parallelism spreads.
    """

    kind: str
    ranks: tuple[int, ...]
    columns: int

    @property
    def holders(self) -> int:
        """Members of a column."""
        return len(self.ranks) // self.columns


def team_of(name: str, layout: Layout, rank: int, model: ModelConfig) -> Team:
    """Those with whom `rank` shares the parameter `name`."""
    kind = layout.reducers(name)
    if kind == "words" and (layout.pp == 1 or not model.mtp.layers):
        kind = "tokens"  # the last stage has no word embeddings of its own
    return Team(kind, layout.members(kind, rank), layout.tp if layout.axis(name) == "tp" else 1)


def extents(piece: Piece, shape: Sequence[int], team: Team, layout: Layout, model: ModelConfig) -> list[Extent | None]:
    """What each column of a team holds of a piece of a parameter of whole shape `shape`."""
    shards = (layout.shard(piece.name, tuple(shape), rank, model) for rank in team.ranks[: team.columns])
    return [extent_of(piece, shard) for shard in shards]


def deal(costs: Sequence[float], columns: Sequence[Sequence[int]], team: Team) -> list[int]:
    """Owner of each piece, as a member of its team: the dearest first, each to whoever has least so far.

    Args:
        costs: of the pieces.
        columns: the columns that hold a part of each piece; its owner is in one of them.
        team: the possible owners.

    Returns:
        A member for each piece; ties go to the first piece and the first member.
    """
    members = range(len(team.ranks))
    loads = [[(0.0, member) for member in members[column :: team.columns]] for column in range(team.columns)]
    owners = [0] * len(costs)
    for piece in sorted(range(len(costs)), key=lambda piece: (-costs[piece], piece)):
        column = min(columns[piece], key=lambda column: loads[column][0])
        load, owner = loads[column][0]
        heapq.heapreplace(loads[column], (load + costs[piece], owner))
        owners[piece] = owner
    return owners


def deal_rows(blocks: int, members: int) -> list[int]:
    """First block of each member's share, and the number of blocks: shares are runs of equal length.

    For tables whose gradients are rows: an owner's rows then are one range.
    """
    return [blocks * member // members for member in range(members + 1)]
