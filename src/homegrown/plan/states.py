"""Parameters that a device holds, and the bytes of their weights, gradients and optimizer state."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from homegrown.plan.facts import Layers, Shape
from homegrown.plan.layout import Layout, Schedule
from homegrown.plan.matrices import Matrix, draft_matrices, layer_matrices, layer_vectors
from homegrown.plan.parts import all_parts, parts_of


@dataclass(frozen=True, eq=False)
class Held:
    """What a pipeline stage holds before other dimensions cut it; numbers unless said otherwise.

    Attributes:
        stage: the first one that holds this.
        layers: of each kind. first, last: how many ends of each sort (DualPipe puts both on one device).
        cut: what tensor parallelism cuts, by how many pieces there can be at most (0: any number).
        whole: what every rank of a stage has; `wide` of them are float32.
        routed: of routed experts.
        muon, muon_routed: matrices that Muon trains where it is the optimizer, without and of routed experts.
        largest, largest_routed: the largest single ones.
        ends: embedding and head, of which `positions` are not cut; projections of n-grams are in `whole`.
        shared: words that the first and the last stage both hold; their owners are on both.
        tables: n-gram tables.
    """

    stage: int
    layers: tuple[int, ...]
    first: int
    last: int
    cut: tuple[tuple[int, float], ...]
    whole: float
    wide: float
    routed: float
    muon: float
    muon_routed: float
    largest: float
    largest_routed: float
    ends: float
    positions: float
    shared: float
    tables: float


class State(NamedTuple):
    """Bytes of parameters and of what belongs to them, on one device."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer


class Owned(NamedTuple):
    """Bytes by kind of parameter."""

    layers: State
    experts: State
    ends: State
    tables: State


class Rules(NamedTuple):
    """Bytes of a number: its gradient, and an optimizer's moment."""

    gradient: float = 4.0
    moment: float = 4.0


def states(held: Held, layout: Layout, rules: Rules, looked_up: float = 0.0) -> Owned:
    """Bytes on one device.

    Weights are in bfloat16 but for routers', gradients in `rules.gradient` bytes; AdamW keeps a float32 master and two
    moments, Muon a master and one (arXiv 2205.05198 section 6; arXiv 2502.16982). With ZeRO-1 a number's state is at
    one of those that hold it (arXiv 1910.02054): dp * cp ranks for what tensor parallelism cuts, all of the stage for
    what it does not, those of other expert groups for experts. A matrix of Muon's has one owner and is not divided.

    Args:
        looked_up: numbers of n-gram rows that a device looks up in a step: their gradients are rows.
    """
    copies = 2 if layout.schedule == "dual" and layout.pp > 1 else 1
    stage = layout.dp * layout.cp * layout.tp
    fp32 = layout.precision == "fp32"
    item, master = (4.0, 0.0) if fp32 else (2.0, 4.0)
    adam, muon = master + 2 * rules.moment, master + rules.moment
    saving = adam - muon if layout.optimizer == "muon" else 0.0

    def share(numbers: float, owners: float) -> float:
        """Numbers whose state is here."""
        return numbers / (owners * copies) if layout.zero else numbers

    tp, dense = layout.tp, layout.dp * layout.cp
    cut = sum(numbers / (min(tp, limit) if limit else tp) for limit, numbers in held.cut)
    orthogonal = share(held.muon / (stage if layout.zero else tp), 1.0)
    # The owner of a matrix has all of it, so that somebody has at least the largest.
    uneven = max(held.largest - orthogonal, 0.0) if saving and layout.zero and held.muon else 0.0
    layers = State(
        item * (cut + held.whole) + (4.0 - item) * held.wide,
        rules.gradient * (cut + held.whole),
        adam * (share(cut, dense) + share(held.whole, stage)) - saving * orthogonal + muon * uneven,
    )
    experts = State(0.0, 0.0, 0.0)
    if held.routed:
        local = held.routed / (layout.ep * layout.etp)
        owners = stage / (layout.ep * layout.etp)
        orthogonal = share(held.muon_routed / (layout.ep * layout.etp), owners)
        uneven = max(held.largest_routed - orthogonal, 0.0) if saving and layout.zero else 0.0
        experts = State(
            item * local, rules.gradient * local, adam * share(local, owners) - saving * orthogonal + muon * uneven
        )
    ends = (held.ends - held.positions) / tp + held.positions
    tables = held.tables / layout.embp
    return Owned(
        layers,
        experts,
        State(item * ends, rules.gradient * ends, adam * share(ends - held.shared / tp / 2, dense)),
        State(
            item * tables, rules.gradient * min(tables, looked_up), adam * share(tables, stage / layout.embp)
        ),
    )  # fmt: skip


@lru_cache(maxsize=8192)
def stages_of(
    shape: Shape, pp: int, parts: int, layers: tuple[int, ...], sequence: int, schedule: Schedule
) -> tuple[Held, ...]:
    """Stages that differ in what they hold: of those alike the first, which keeps most micro-batches.

    Raises:
        ConfigError: `layers` does not fit the model.
    """
    every = all_parts(shape, pp, parts, layers, sequence)
    found: dict[tuple[tuple[int, ...], int, int], Held] = {}
    for stage in range(pp):
        own = every[stage::pp]
        if schedule == "dual" and pp > 1:
            own += every[pp - 1 - stage :: pp]
        counts = tuple(map(sum, zip(*(part.layers for part in own), strict=True)))
        key = (counts, sum(part.first for part in own), sum(part.last for part in own))
        if key not in found:
            found[key] = _held(shape, stage, *key, whole=pp == 1)
    return tuple(found.values())


def held_on(shape: Shape, layout: Layout, stage: int) -> Held:
    """What a stage holds; under DualPipe, without the mirrored one.

    Raises:
        ConfigError: `layout.layers` does not fit the model.
    """
    own = parts_of(shape, layout, stage)
    counts = tuple(map(sum, zip(*(part.layers for part in own), strict=True)))
    return _held(shape, stage, counts, int(own[0].first), int(own[-1].last), whole=layout.pp == 1)


@lru_cache(maxsize=8192)
def _held(shape: Shape, stage: int, layers: tuple[int, ...], first: int, last: int, *, whole: bool) -> Held:
    cut: defaultdict[int, float] = defaultdict(float)
    total: defaultdict[str, float] = defaultdict(float)
    blocks = [(count, _numbers(shape, kind)) for kind, count in enumerate(layers) if count]
    if last and shape.draft is not None:
        blocks.append((last * shape.draft.count, _numbers(shape, -1)))
    for count, (pieces, numbers) in blocks:
        for limit, number in pieces:
            cut[limit] += count * number
        for name, number in numbers:
            total[name] = max(total[name], number) if name.startswith("largest") else total[name] + count * number
    norm = shape.hidden * (2 if shape.bias else 1)
    projections = shape.ngram_tables * shape.ngram_width * shape.hidden
    words = shape.vocab * shape.hidden
    # The last stage embeds words too where it drafts or unembeds by the embedding.
    shared = words if (shape.tied or shape.draft is not None) and not whole else 0
    tail = (0 if shape.tied else words) + shared
    return Held(
        stage=stage,
        layers=layers,
        first=first,
        last=last,
        cut=tuple(cut.items()),
        whole=total["whole"] + first * projections + last * norm,
        wide=total["wide"],
        routed=total["routed"],
        muon=total["muon"] + first * projections,
        muon_routed=total["muon routed"],
        largest=max(total["largest"], first * shape.ngram_width * shape.hidden),
        largest_routed=total["largest routed"],
        ends=first * (words + shape.positions * shape.hidden) + last * tail,
        positions=first * shape.positions * shape.hidden,
        shared=(first + last) * shared,
        tables=first * shape.ngram_rows * shape.ngram_width,
    )


Counted = tuple[tuple[tuple[int, float], ...], tuple[tuple[str, float], ...]]


@lru_cache(maxsize=256)
def _numbers(shape: Shape, kind: int) -> Counted:
    """Numbers of one layer of a kind, or of the draft block (−1): what is cut, by the pieces; the others by name."""
    if kind >= 0:
        layers, matrices, extra = shape.layers[kind], list(layer_matrices(shape, shape.layers[kind])), 0
    else:
        layers, matrices, extra = _draft(shape), list(draft_matrices(shape)), 3 * shape.hidden
    total: defaultdict[str, float] = defaultdict(float)
    vectors = layer_vectors(shape, layers)
    total["whole"] = sum(vectors.values()) + extra * (2 if shape.bias else 1)
    total["wide"] = vectors.get("router", 0.0)
    cut: defaultdict[int, float] = defaultdict(float)
    for matrix in matrices:
        _add(matrix, cut, total)
    return tuple(cut.items()), tuple(total.items())


def _add(matrix: Matrix, cut: defaultdict[int, float], total: defaultdict[str, float]) -> None:
    biases = matrix.copies * matrix.outputs if matrix.bias else 0.0
    group = " routed" if matrix.routed else ""
    if matrix.hidden:
        total["muon" + group] += matrix.numbers
        total["largest" + group] = max(total["largest" + group], matrix.inputs * matrix.outputs)
    if matrix.routed:
        total["routed"] += matrix.numbers + biases
    elif matrix.cut:
        cut[matrix.limit] += matrix.numbers + (biases if matrix.cut == "outputs" else 0.0)
        total["whole"] += biases if matrix.cut == "inputs" else 0.0
    else:
        total["whole"] += matrix.numbers + biases
        total["wide"] += matrix.numbers if matrix.wide else 0.0


def _draft(shape: Shape) -> Layers:
    if shape.draft is None:
        raise ValueError(f"{shape.name} has no draft head")
    return shape.draft
