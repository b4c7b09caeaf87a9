"""Who is who: a layout is pure data, printable and testable without devices.

Processes are numbered with tensor parallelism innermost, rank = ((pp · DP + dp) · CP + cp) · TP + tp, so that those
who talk most are neighbours. The DP · CP · TP *token ranks* of a pipeline stage each hold other tokens between blocks;
experts and n-gram tables fold over them: token rank u holds expert shard u mod EP and row shard u mod EMBP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from homegrown.config import ConfigError, DataConfig, ModelConfig, ParallelConfig, require
from homegrown.config.blocks import TABLE_BLOCKS, row_blocks

KINDS = (
    "world", "tp", "cp", "sequence", "data", "tokens", "ep", "ep_inner", "ep_outer", "expert_replicas", "embp",
    "row_replicas", "pp", "words",
)  # fmt: skip
"""Groups of processes:
tp, cp, pp: along one dimension. sequence: cp x tp, those who share rows. data: along dp.
tokens: a stage's token ranks. ep, embp: one copy of the experts, of the n-gram rows; expert_replicas, row_replicas:
those who hold the same ones. ep_inner, ep_outer: those of an ep group in the same superpod; those at the same place in
theirs, one in each. words: the token ranks of the first and the last stage, who all hold word embeddings.
"""


class Place(NamedTuple):
    """Where a rank stands."""

    pp: int
    dp: int
    cp: int
    tp: int


class Shard(NamedTuple):
    """The part start..stop along `dim` of a parameter of global shape `shape` that a rank holds."""

    shape: tuple[int, ...]
    dim: int
    start: int
    stop: int

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of the part."""
        return (*self.shape[: self.dim], self.stop - self.start, *self.shape[self.dim + 1 :])

    @property
    def whole(self) -> bool:
        """Whether the part is everything."""
        return self.stop - self.start == self.shape[self.dim]


class Part(NamedTuple):
    """A pipeline part: consecutive layers, with the embedding before or the head behind them."""

    number: int
    layers: range
    first: bool
    last: bool


_ATTENTION = r"(layers\.\d+\.self_attn\.[01]|mtp\.layers\.0\.self_attn)"
_DENSE = r"(layers\.\d+\.mlps\.[01]|mtp\.layers\.0\.mlp)"
_RULES: tuple[tuple[str, int, str], ...] = (
    (rf"{_ATTENTION}\.(q_b_proj|kv_b_proj)\.weight", 0, "tp"),
    (rf"{_ATTENTION}\.o_proj\.weight", 1, "tp"),
    (rf"{_DENSE}\.(gate_proj|up_proj)\.weight", 0, "tp"),
    (rf"{_DENSE}\.down_proj\.weight", 1, "tp"),
    (r"(embed_tokens|lm_head)\.weight", 0, "tp"),
    (r"layers\.\d+\.mlp\.experts\.(gate_up_proj|down_proj)", 0, "ep"),
    (r"ngram_embeddings\.table", 0, "embp"),
)
"""Parameters that are spread: name, axis, dimension. All others are whole on every rank of their stage."""
_COMPILED = tuple((re.compile(pattern), dim, axis) for pattern, dim, axis in _RULES)
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Layout:
    """Sizes of all dimensions, settled. Make one with `settle`.

    Attributes:
        pp, dp, cp, tp: their product is the number of ranks.
        ep, embp: fold over the dp · cp · tp token ranks of a stage.
        parts: pipeline parts per rank.
        part_layers: layers of each of the pp · parts parts.
        pod: ranks of a superpod; 0 for none.
    """

    pp: int = 1
    dp: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
    embp: int = 1
    parts: int = 1
    part_layers: tuple[int, ...] = (0,)
    pod: int = 0

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.pp * self.tokens

    @property
    def tokens(self) -> int:
        """Token ranks of a stage."""
        return self.dp * self.cp * self.tp

    @property
    def sequence_unit(self) -> int:
        """A row's length is padded to a multiple of this: two chunks per cp rank, each in tp slices."""
        return (2 * self.cp if self.cp > 1 else 1) * self.tp

    def place(self, rank: int) -> Place:
        """Coordinates of a rank."""
        rest, tp = divmod(rank, self.tp)
        rest, cp = divmod(rest, self.cp)
        pp, dp = divmod(rest, self.dp)
        return Place(pp, dp, cp, tp)

    def rank(self, place: Place) -> int:
        """Rank at a place."""
        return ((place.pp * self.dp + place.dp) * self.cp + place.cp) * self.tp + place.tp

    def token_rank(self, rank: int) -> int:
        """Number of a rank among its stage's token ranks."""
        return rank % self.tokens

    def members(self, kind: str, rank: int) -> tuple[int, ...]:
        """Ranks of the group of this kind that `rank` belongs to, in order; only itself where it belongs to none.

        Raises:
            KeyError: there is no such kind.
        """
        place, stage = self.place(rank), rank - rank % self.tokens
        everyone = range(stage, stage + self.tokens)
        if kind == "world":
            return tuple(range(self.world))
        if kind == "tokens":
            return tuple(everyone)
        if kind in ("tp", "cp", "pp"):
            size = getattr(self, kind)
            return tuple(self.rank(place._replace(**{kind: index})) for index in range(size))
        if kind == "data":
            return tuple(self.rank(place._replace(dp=index)) for index in range(self.dp))
        if kind == "sequence":
            return tuple(self.rank(place._replace(cp=cp, tp=tp)) for cp in range(self.cp) for tp in range(self.tp))
        if kind in ("ep", "embp"):
            size = getattr(self, kind)
            first = stage + self.token_rank(rank) // size * size
            return tuple(range(first, first + size))
        if kind in ("ep_inner", "ep_outer"):
            pod, first = min(self.pod or self.ep, self.ep), rank - self.token_rank(rank) % self.ep
            if kind == "ep_outer":
                return tuple(range(first + (rank - first) % pod, first + self.ep, pod))
            first = rank - (rank - first) % pod
            return tuple(range(first, first + pod))
        if kind in ("expert_replicas", "row_replicas"):
            size = self.ep if kind == "expert_replicas" else self.embp
            return tuple(range(stage + self.token_rank(rank) % size, stage + self.tokens, size))
        if kind == "words":
            if self.pp == 1:
                return tuple(everyone)
            if place.pp not in (0, self.pp - 1):
                return (rank,)
            return (*range(self.tokens), *range(self.world - self.tokens, self.world))
        raise KeyError(f"no such group: {kind!r}; there are {', '.join(KINDS)}")

    @cached_property
    def all_parts(self) -> tuple[Part, ...]:
        """All pipeline parts, in the order in which a token goes through them. Part n lives on stage n mod pp."""
        starts = [sum(self.part_layers[:number]) for number in range(len(self.part_layers) + 1)]
        count = len(self.part_layers)
        return tuple(
            Part(number, range(starts[number], starts[number + 1]), number == 0, number == count - 1)
            for number in range(count)
        )

    def parts_of(self, rank: int) -> tuple[Part, ...]:
        """Pipeline parts of a rank, in order."""
        return self.all_parts[self.place(rank).pp :: self.pp]

    def holds(self, name: str, rank: int, model: ModelConfig) -> bool:
        """Whether a parameter (or a part of it) belongs to the stage of `rank`."""
        parts = self.parts_of(rank)
        layer = None if name.startswith("mtp.") else _LAYER.match(name)
        if layer is not None:
            return any(int(layer[1]) in part.layers for part in parts)
        ends = (any(part.first for part in parts), any(part.last for part in parts))
        if name.startswith("embed_tokens."):
            return ends[0] or (ends[1] and model.mtp.layers > 0)
        return ends[0] if name.startswith("ngram_embeddings.") else ends[1]

    def shard(self, name: str, shape: tuple[int, ...], rank: int, model: ModelConfig) -> Shard | None:
        """What part of a parameter of global shape `shape` a rank holds; `None` if it is on another stage."""
        if not self.holds(name, rank, model):
            return None
        for pattern, dim, axis in _COMPILED:
            size = getattr(self, axis)
            if size > 1 and pattern.fullmatch(name):
                index = self._index(axis, rank)
                if axis == "embp":
                    borders = row_blocks(shape[0], shape[1], TABLE_BLOCKS)
                    blocks = len(borders) - 1
                    return Shard(shape, 0, borders[blocks * index // size], borders[blocks * (index + 1) // size])
                each = shape[dim] // size
                return Shard(shape, dim, each * index, each * (index + 1))
        return Shard(shape, 0, 0, shape[0])

    def axis(self, name: str) -> str:
        """Along which dimension a parameter is spread: `tp`, `ep`, `embp`, or an empty string."""
        return next((axis for pattern, _, axis in _COMPILED if pattern.fullmatch(name)), "")

    def reducers(self, name: str) -> str:
        """Kind of the group over which the gradients of a parameter travel to its owners."""
        if name.startswith("embed_tokens."):
            return "words"
        return {"ep": "expert_replicas", "embp": "row_replicas"}.get(self.axis(name), "tokens")

    def _index(self, axis: str, rank: int) -> int:
        return self.place(rank).tp if axis == "tp" else self.token_rank(rank) % int(getattr(self, axis))

    def describe(self) -> str:
        """One line: `16 ranks = pp 2 x dp 2 x cp 2 x tp 2, ep 4, embp 8`."""
        sizes = " x ".join(f"{name} {getattr(self, name)}" for name in ("pp", "dp", "cp", "tp"))
        parts = f", {self.parts} parts a stage" if self.parts > 1 else ""
        return f"{self.world} ranks = {sizes}, ep {self.ep}, embp {self.embp}{parts}"


def settle(config: ParallelConfig, world: int, model: ModelConfig, data: DataConfig) -> Layout:
    """The layout of a run on `world` processes.

    Raises:
        ConfigError: the sizes do not divide what they must; the message says which and what would do.
    """
    others = config.pp * config.cp * config.tp
    require(
        world % others == 0,
        f"{world} processes: must be a multiple of parallel.pp * cp * tp = {config.pp} * {config.cp} * {config.tp} = "
        f"{others}",
    )
    dp = world // others
    require(
        config.dp in (0, dp),
        f"parallel.dp = {config.dp}: {world} processes over pp * cp * tp = {others} leave dp = {dp} (0 takes that)",
    )
    tokens = dp * config.cp * config.tp
    embp = config.embp or tokens
    for name, size in (("ep", config.ep), ("embp", embp)):
        require(
            tokens % size == 0,
            f"parallel.{name} = {size}: must divide the dp * cp * tp = {tokens} processes of a pipeline stage",
        )
    require(
        config.pod == 0 or config.ep % config.pod == 0 or config.pod % config.ep == 0,
        f"parallel.pod = {config.pod}: must divide parallel.ep = {config.ep}, or be a multiple of it",
    )
    layout = Layout(
        pp=config.pp, dp=dp, cp=config.cp, tp=config.tp, ep=config.ep, embp=embp if model.ngram.order else 1,
        parts=config.parts, part_layers=_part_layers(config, model), pod=config.pod,
    )  # fmt: skip
    _check_model(layout, model)
    _check_data(layout, data)
    return layout


def _part_layers(config: ParallelConfig, model: ModelConfig) -> tuple[int, ...]:
    count = config.pp * config.parts
    if config.layers:
        require(
            len(config.layers) == count and sum(config.layers) == model.num_layers and min(config.layers) > 0,
            f"parallel.layers = {list(config.layers)}: must name {count} parts (pp * parts) of at least one layer, "
            f"{model.num_layers} layers in all",
        )
        return config.layers
    require(
        model.num_layers >= count,
        f"parallel.pp * parallel.parts = {count}: the model has only {model.num_layers} layers",
    )
    # A step between owners of indexers: reused selections do not travel.
    unit = max(1, -(-model.sparse.share // 2)) if model.sparse.topk else 1
    units = model.num_layers // unit
    if model.num_layers % unit or units < count:
        raise ConfigError(
            f"parallel.pp * parallel.parts = {count}: with model.sparse.share = {model.sparse.share} a part must hold "
            f"a multiple of {unit} layers, and the model has {model.num_layers}"
        )
    return tuple(unit * (units * (part + 1) // count - units * part // count) for part in range(count))


def _check_model(layout: Layout, model: ModelConfig) -> None:
    for name in ("num_attention_heads", "ffn_hidden_size", "vocab_size"):
        value = getattr(model, name)
        require(value % layout.tp == 0, f"parallel.tp = {layout.tp}: must divide model.{name} = {value}")
    require(
        model.n_routed_experts % layout.ep == 0,
        f"parallel.ep = {layout.ep}: must divide model.n_routed_experts = {model.n_routed_experts}",
    )
    if model.ngram.order:
        rows = [int(model.ngram.ratio * model.vocab_size) + 2 * table + 1 for table in range(model.ngram.tables)]
        blocks = len(row_blocks(sum(rows), model.hidden_size // model.ngram.tables, TABLE_BLOCKS)) - 1
        require(
            layout.embp <= blocks, f"parallel.embp = {layout.embp}: the n-gram tables have only {blocks} row blocks"
        )
    require(
        layout.pp == 1 or not (model.mtp.layers and model.mtp.use_ngram),
        "parallel.pp > 1: a draft head with n-gram embeddings (model.mtp.use_ngram) needs the tables on two stages",
    )
    for part in layout.all_parts[1:]:
        slot = 2 * part.layers.start
        require(
            not model.sparse.topk or slot % model.sparse.share == 0,
            f"parallel.layers: part {part.number} begins at layer {part.layers.start}, whose attention reuses a "
            f"selection of the part before (model.sparse.share = {model.sparse.share})",
        )


def _check_data(layout: Layout, data: DataConfig) -> None:
    rows = layout.dp * data.micro_batch
    require(
        data.global_batch % rows == 0,
        f"data.global_batch = {data.global_batch}: must be a multiple of dp * data.micro_batch = {layout.dp} * "
        f"{data.micro_batch} = {rows}",
    )
    micro_batches = data.global_batch // rows
    require(
        layout.parts == 1 or micro_batches % layout.pp == 0,
        f"parallel.parts = {layout.parts}: an interleaved pipeline needs a multiple of pp = {layout.pp} micro-batches "
        f"a step, and there are {micro_batches}",
    )
