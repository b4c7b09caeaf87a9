"""Shapes of this project's models, and parameters of any shape."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from homegrown.config import ConfigError, ModelConfig, load_preset, preset_names
from homegrown.plan.facts import Attention, Experts, Layers, Shape
from homegrown.plan.matrices import COMPONENTS, feed_forward, layer_matrices, layer_vectors
from homegrown.plan.routing import real_choices

PUBLISHED_REAL = {
    "flash": 8.0,  # arXiv 2509.01322 section 2.1: expected experts K_e
    "longcat-2.0": 7.85,  # what makes 48B of 1.6T parameters active, as its model card says
}
"""Real experts of a token on average, where the makers of a preset say what they hold it at."""

PRESET_OF = {
    "longcat-flash": "flash",
    "longcat-flash-lite": "flash-lite",
    "longcat-flash-lite-sparse": "flash-lite-sparse",
}
"""Presets that go by their models' full names, too."""


def preset_shape(name: str) -> Shape:
    """The shape of a preset, by its name or its model's.

    Raises:
        ConfigError: there is no such preset; the message lists those there are.
    """
    preset = PRESET_OF.get(name, name)
    return shape_of(load_preset(preset), name=name, title=name, real=PUBLISHED_REAL.get(preset, 0.0))


def preset_shape_names() -> list[str]:
    """Names that `preset_shape` takes: a preset with a full name goes by that one."""
    full = {preset: name for name, preset in PRESET_OF.items()}
    return [full.get(preset, preset) for preset in preset_names()]


def shape_of(config: ModelConfig, *, name: str = "model", title: str = "", real: float = 0.0) -> Shape:
    """The shape of a model of this project.

    Args:
        config: the model.
        name, title: what it is called.
        real: experts that compute, of a token's choices, on average; 0 takes the share of real ones among all.

    Raises:
        ConfigError: `real` is more than a token's choices.
    """
    if not 0 <= real <= config.moe_topk:
        raise ConfigError(f"real = {real:g}: must lie between 0 and model.moe_topk = {config.moe_topk}")
    attention, ngram = _attention(config), config.ngram
    mean, spread = real_choices(config.n_routed_experts, config.zero_expert_num, config.moe_topk, real)
    experts = Experts(
        routed=config.n_routed_experts, zero=config.zero_expert_num, topk=config.moe_topk, real=mean, spread=spread,
        width=config.expert_ffn_hidden_size, biases=2 if config.router_bias else 1,
    )  # fmt: skip
    rows = int(ngram.ratio * config.vocab_size)
    draft = Layers(count=1, attention=_draft_attention(config, attention), dense=(config.ffn_hidden_size,))
    return Shape(
        name=name,
        title=title or name,
        hidden=config.hidden_size,
        vocab=config.vocab_size,
        layers=(
            Layers(
                count=config.num_layers, attention=attention, sublayers=2, dense=(config.ffn_hidden_size,) * 2,
                experts=experts, overlap=True,
            ),
        ),
        ngram_tables=ngram.tables,
        ngram_rows=sum(rows + 2 * table + 1 for table in range(ngram.tables)),
        ngram_width=config.hidden_size // ngram.tables if ngram.tables else 0,
        draft=draft if config.mtp.layers else None,
        draft_steps=config.mtp.steps if config.mtp.layers else 0,
        context=config.max_position_embeddings,
        source="the model's configuration in this package",
    )  # fmt: skip


def _attention(config: ModelConfig) -> Attention:
    sparse = config.sparse
    return Attention(
        kind="mla", heads=config.num_attention_heads, kv_heads=config.num_attention_heads, query=config.qk_head_dim,
        value=config.v_head_dim, q_lora=config.q_lora_rank, kv_lora=config.kv_lora_rank, rope=config.qk_rope_head_dim,
        budget=sparse.topk, index_heads=sparse.heads if sparse.topk else 0,
        index_dim=sparse.head_dim if sparse.topk else 0, index_share=sparse.share if sparse.topk else 1,
        index_page=sparse.page_size, index_pages=sparse.page_topk if sparse.hierarchical else 0,
        index_threshold=sparse.hierarchical_threshold, index_block=sparse.page_block,
        index_skip=sparse.hierarchical_skip_owners, index_bias=sparse.k_norm == "layer",
    )  # fmt: skip


def _draft_attention(config: ModelConfig, attention: Attention) -> Attention:
    """The draft block attends as the model does; it owns an indexer or sees everything."""
    if config.mtp.indexer:
        return replace(attention, index_share=1)
    return replace(attention, budget=0, index_heads=0, index_dim=0, index_share=1)


# Counted


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model holds and uses.

    Attributes:
        by_component: without the draft head.
        draft: numbers of the draft head; embedding and unembedding are the model's own.
        used: numbers that every token uses, in products or norms: all but routed experts and what is looked up.
        choices: for each kind of layer with routed experts: how many, numbers of one expert, real experts of a token.
    """

    by_component: Mapping[str, int]
    draft: int
    used: int
    choices: tuple[tuple[int, int, float], ...]

    @property
    def total(self) -> int:
        """All of them, the draft head's left out."""
        return sum(self.by_component.values())

    def active(self, real: float | None = None) -> float:
        """Parameters that a token uses that is given `real` real experts in every layer; `None`, as many as the model
        gives on average. Rows that are looked up do not count, nor do projections of n-gram rows."""
        given = ((count, numbers, mean if real is None else real) for count, numbers, mean in self.choices)
        return self.used + sum(count * numbers * number for count, numbers, number in given)


@lru_cache(maxsize=64)
def parameters(shape: Shape) -> Parameters:
    """Count the parameters of a shape."""
    found: Counter[str] = Counter()
    for layers in shape.layers:
        for part, numbers in _of_layer(shape, layers).items():
            found[part] += round(layers.count * numbers)
    hidden = shape.hidden
    found["word embedding"] = (shape.vocab + shape.positions) * hidden
    found["head"] = 0 if shape.tied else shape.vocab * hidden
    found["norms"] += hidden * (2 if shape.bias else 1)
    found["n-gram tables"] = shape.ngram_rows * shape.ngram_width
    found["n-gram projections"] = shape.ngram_tables * shape.ngram_width * hidden
    choices = tuple(
        (layers.count, _expert(shape, layers.experts), layers.experts.real)
        for layers in shape.layers
        if layers.experts is not None
    )
    aside = ("word embedding", "n-gram tables", "n-gram projections", "experts")
    used = sum(numbers for part, numbers in found.items() if part not in aside)
    used += shape.vocab * hidden if shape.tied else 0
    ordered = {part: found[part] for part in COMPONENTS if found[part]}
    return Parameters(ordered, _draft(shape), used, choices)


def _of_layer(shape: Shape, layers: Layers) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for matrix in layer_matrices(shape, layers):
        found[matrix.part] += matrix.numbers + (matrix.copies * matrix.outputs if matrix.bias else 0)
    for part, numbers in layer_vectors(shape, layers).items():
        found[part] += numbers
    return dict(found)


def _expert(shape: Shape, experts: Experts) -> int:
    matrices = feed_forward(shape, experts.width, "experts")
    return round(sum(matrix.numbers + (matrix.outputs if matrix.bias else 0) for matrix in matrices))


def _draft(shape: Shape) -> int:
    if shape.draft is None:
        return 0
    norm = shape.hidden * (2 if shape.bias else 1)
    merge = 2 * shape.hidden * shape.hidden
    return round(shape.draft.count * (sum(_of_layer(shape, shape.draft).values()) + merge + 3 * norm))
