"""What is known about chips, clusters and models: the types that data files are read into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from homegrown.plan.quantity import Quantity, World


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A device as it is counted: one package, or one die where a package holds several that are driven apart.

    Attributes:
        peak: dense FLOP/s by dtype: `bf16`, `fp8`, `fp4`, `int8`, `fp32`. A dtype the chip lacks is absent.
        ceiling: share of the peak that large matrix products reach, by dtype (measured where `mark` says so).
        memory, bandwidth: bytes, and bytes/s of reading them.
        power: watts at full load (rated), and of an idle device.
        rental: US dollars an hour.
        capital: US dollars to buy one with its share of the system, where known.
        facts: dated sentences on sale and export.
    """

    name: str
    title: str
    vendor: str
    unit: Literal["package", "die"]
    peak: Mapping[str, Quantity]
    ceiling: Mapping[str, Quantity]
    memory: Quantity
    bandwidth: Quantity
    power: Quantity
    idle_power: Quantity
    rental: Quantity | None = None
    capital: Quantity | None = None
    status: Literal["sold", "announced"] = "sold"
    facts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Links that join so many devices: a node, a superpod, the whole cluster.

    Attributes:
        size: devices that it joins; 0 joins all.
        bandwidth: bytes/s that a device sends, one way, with collectives' own losses taken off (effective).
        pair: bytes/s to one peer, where a mesh gives each pair a part of the whole only; None, all of it.
        latency: seconds of one hop of a collective.
    """

    name: str
    size: int
    bandwidth: Quantity
    latency: Quantity
    pair: Quantity | None = None


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Chips and what is around them.

    Attributes:
        tiers: from the smallest to the one that joins all.
        node: devices of a host; a host fails as one.
        system_power: watts a device of all that is not the device: host, links, fans; under load.
        pue: power of the site over power of the machines.
        failures: interruptions of a job per node and day.
        pod_failures: losses of a whole pod (the largest tier but the last) per pod and day, where known.
        restart: seconds from an interruption to the next step: found, restarted, loaded.
        storage: bytes/s that a device writes to lasting storage, all of them at once.
        host_bandwidth: bytes/s between a device and its host.
    """

    name: str
    title: str
    chip: Chip
    tiers: tuple[Tier, ...]
    node: int
    system_power: Quantity
    pue: Quantity
    failures: Quantity
    restart: Quantity
    storage: Quantity
    host_bandwidth: Quantity
    pod_failures: Quantity | None = None
    largest: int = 0
    notes: tuple[str, ...] = ()

    def machine(self, world: World) -> Machine:
        """The cluster as it is in one world. Figures of a chip go by names that clusters of it share."""
        chip, here = f"chip.{self.chip.name}", f"cluster.{self.name}"
        peak = {dtype: world.of(f"{chip}.peak.{dtype}", figure) for dtype, figure in self.chip.peak.items()}
        share = {dtype: world.of(f"{chip}.ceiling", figure) for dtype, figure in self.chip.ceiling.items()}
        return Machine(
            peak={dtype: self.chip.peak[dtype].value for dtype in peak},
            products={dtype: peak[dtype] * min(share.get(dtype, share["bf16"]), 1.0) for dtype in peak},
            memory=world.of(f"{chip}.memory", self.chip.memory),
            bandwidth=world.of(f"{chip}.bandwidth", self.chip.bandwidth),
            links=tuple(
                Link(
                    name=tier.name,
                    size=tier.size,
                    bandwidth=(full := world.of(f"{here}.{tier.name}.bandwidth", tier.bandwidth)),
                    pair=full if tier.pair is None else world.of(f"{here}.{tier.name}.pair", tier.pair),
                    latency=world.of(f"{here}.{tier.name}.latency", tier.latency),
                )
                for tier in self.tiers
            ),
            host_bandwidth=world.of(f"{here}.host_bandwidth", self.host_bandwidth),
        )


@dataclass(frozen=True)
class Link:
    """A `Tier` in one world."""

    name: str
    size: int
    bandwidth: float
    pair: float
    latency: float


@dataclass(frozen=True)
class Machine:
    """What times depend on, in one world.

    Attributes:
        peak: FLOP/s by dtype as declared: what utilisation is a share of, the same in every world.
        products: FLOP/s that large matrix products reach.
    """

    peak: Mapping[str, float]
    products: Mapping[str, float]
    memory: float
    bandwidth: float
    links: tuple[Link, ...]
    host_bandwidth: float


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One attention sublayer.

    Attributes:
        kind: `gqa` (multi-head with as many key heads as query heads, too) or `mla`.
        query, value: width of a query (or key) head and of a value head.
        q_lora, kv_lora, rope: latent widths and rotary lanes of `mla`; q_lora 0 projects queries at once.
        budget: keys a query sees at most; 0, all.
        index_heads, index_dim: the indexer that selects them; it belongs to one sublayer in `index_share`.
        index_pages: hierarchical indexing: pages whose keys are scored; 0 scores all.
        index_block: keys that a page is scored by one mean of; index_skip: first indexers that always score all keys.
        index_bias: the norm of index keys has a bias.
        bias: the projections of queries, keys and values have one.
    """

    kind: Literal["gqa", "mla"]
    heads: int
    kv_heads: int
    query: int
    value: int
    q_lora: int = 0
    kv_lora: int = 0
    rope: int = 0
    budget: int = 0
    index_heads: int = 0
    index_dim: int = 0
    index_share: int = 1
    index_page: int = 128
    index_pages: int = 0
    index_threshold: int = 0
    index_block: int = 8
    index_skip: int = 0
    index_bias: bool = False
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Routed experts of a layer.

    Attributes:
        routed, zero: experts that compute, and zero-computation experts beside them.
        topk: choices of a token; `real`: how many of them compute, on average.
        spread: standard deviation of a token's real choices.
        width: of an expert's (gated) feed-forward network.
        shared: width of experts that every token uses.
        biases: numbers that the router keeps for each expert beside its matrix.
        reach: nodes that a token's experts may lie on; 0 does not limit them.
    """

    routed: int
    topk: int
    width: int
    real: float
    zero: int = 0
    spread: float = 0.0
    shared: int = 0
    biases: int = 1
    reach: int = 0


@dataclass(frozen=True, kw_only=True)
class Layers:
    """So many layers alike, in order.

    Attributes:
        attention: sublayers of attention in each, and what one is like.
        dense: widths of the dense feed-forward networks of each.
        overlap: expert traffic may hide behind a whole dense sublayer (shortcut-connected experts).
    """

    count: int
    attention: Attention
    sublayers: int = 1
    dense: tuple[int, ...] = ()
    experts: Experts | None = None
    overlap: bool = False


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model, in the numbers that its cost depends on.

    Attributes:
        positions: learned positions that are embedded; 0, rotary ones.
        gated: feed-forward networks have three matrices (SwiGLU), not two.
        bias: linear maps have biases, and norms too.
        tied: the unembedding is the embedding.
        dropout: training drops numbers of attention and of what sublayers add, and keeps which.
        ngram_tables, ngram_rows, ngram_width: hashed n-gram tables: their number, rows of all together, and width.
        draft: the draft head (multi-token prediction) as layers, unrolled `draft_steps` times.
    """

    name: str
    title: str
    hidden: int
    vocab: int
    layers: tuple[Layers, ...]
    positions: int = 0
    gated: bool = True
    bias: bool = False
    tied: bool = False
    dropout: bool = False
    ngram_tables: int = 0
    ngram_rows: int = 0
    ngram_width: int = 0
    draft: Layers | None = None
    draft_steps: int = 0
    context: int = 0
    source: str = ""

    @property
    def depth(self) -> int:
        """Layers, the draft head's left out."""
        return sum(group.count for group in self.layers)
