"""The mapping between our parameters and published tensors: a pure function of config and layout.

Each published tensor holds one contiguous run of one parameter in row-major order, so an integer range says which.
That covers all of the family: an expert's matrix is a run of the stacked experts, an n-gram table a run of rows of the
one big table, a fused tensor all of it (with rows to spare).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from homegrown.config import ModelConfig
from homegrown.hub.layout import NGRAM_STYLES, Layout

Shape = tuple[int, ...]

GATE_UP = "mlp.experts.gate_up_proj"
DOWN = "mlp.experts.down_proj"
TABLE = "ngram_embeddings.table"
PROJ = "ngram_embeddings.proj"
CORRECTION = "e_score_correction_bias"


@dataclass(frozen=True, slots=True)
class Part:
    """A published tensor and the run of a parameter that it holds.

    Attributes:
        published: name in the checkpoint.
        shape: shape in the checkpoint.
        ours: name of our parameter.
        start: first element of the run in the flattened parameter.
        count: length of the run; the published tensor's elements beyond are padding that no forward pass reads.
        spare_rows: the tensor may have more or fewer padding rows on disk (engines pad tables when they shard them).
    """

    published: str
    shape: Shape
    ours: str
    start: int
    count: int
    spare_rows: bool = False

    @property
    def rows(self) -> int:
        """Leading rows of the published tensor that the run fills."""
        return self.count // prod(self.shape[1:])


def tensors(config: ModelConfig) -> dict[str, Shape]:
    """Name and shape of every parameter and buffer of `Longcat(config)`."""
    vocab, hidden = config.vocab_size, config.hidden_size
    shapes: dict[str, Shape] = {"embed_tokens.weight": (vocab, hidden)}
    if config.ngram.order:
        width = hidden // config.ngram.tables
        shapes |= {TABLE: (sum(table_rows(config)), width), PROJ: (config.ngram.tables, hidden, width)}
    for number in range(config.num_layers):
        shapes |= _under(f"layers.{number}.", _layer(config, number))
    shapes |= {"norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    if config.mtp.layers:
        shapes |= _under("mtp.layers.0.", _mtp_block(config)) | {"mtp.norm.weight": (hidden,)}
    return shapes


def table_rows(config: ModelConfig) -> list[int]:
    """Rows of each n-gram table: M_t = int(ratio · V) + 2t + 1 (arXiv 2601.21204)."""
    base = int(config.ngram.ratio * config.vocab_size)
    return [base + 2 * table + 1 for table in range(config.ngram.tables)]


def parts(config: ModelConfig, layout: Layout) -> Iterator[Part]:
    """Every tensor of a checkpoint in this layout, in the order of `tensors`."""
    for ours, shape in tensors(config).items():
        yield from _rule(ours)(ours, shape, config, layout)


def unused(config: ModelConfig, layout: Layout) -> frozenset[str]:
    """Names that published checkpoints hold and no forward pass reads.

    The draft head's own embedding, its n-gram tables (`mtp_disable_over_tokenizer`), and its indexer where the config
    drafts densely. `mtp.keep_unused` carries them through.
    """
    if not config.mtp.layers:
        return frozenset()
    names = {"embed_tokens.weight"}
    for style in NGRAM_STYLES:
        names |= {template.format(t=table) for template in style for table in range(config.ngram.tables)}
    if config.sparse.topk and not config.mtp.indexer:
        names |= set(_under("layers.0.self_attn.indexer.", _indexer(config)))
    return frozenset(layout.mtp + name for name in names)


def _under(prefix: str, shapes: dict[str, Shape]) -> dict[str, Shape]:
    return {prefix + name: shape for name, shape in shapes.items()}


def _layer(config: ModelConfig, number: int) -> dict[str, Shape]:
    hidden, width = config.hidden_size, config.expert_ffn_hidden_size
    routed, choices = config.n_routed_experts, config.n_routed_experts + config.zero_expert_num
    shapes: dict[str, Shape] = {}
    for half in (0, 1):
        shapes[f"input_layernorm.{half}.weight"] = (hidden,)
        shapes |= _under(f"self_attn.{half}.", _attention(config))
        if config.sparse.topk and (2 * number + half) % config.sparse.share == 0:
            shapes |= _under(f"self_attn.{half}.indexer.", _indexer(config))
        shapes[f"post_attention_layernorm.{half}.weight"] = (hidden,)
        shapes |= _under(f"mlps.{half}.", _dense(config))
    shapes["mlp.router.classifier.weight"] = (choices, hidden)
    if config.router_bias:
        shapes["mlp.router.classifier.bias"] = (choices,)
    shapes[f"mlp.router.{CORRECTION}"] = (choices,)
    shapes[GATE_UP] = (routed, 2, width, hidden)
    shapes[DOWN] = (routed, hidden, width)
    return shapes


def _mtp_block(config: ModelConfig) -> dict[str, Shape]:
    hidden = config.hidden_size
    shapes: dict[str, Shape] = {
        "eh_proj.weight": (hidden, 2 * hidden),
        "enorm.weight": (hidden,),
        "hnorm.weight": (hidden,),
        "input_layernorm.weight": (hidden,),
    }
    shapes |= _under("self_attn.", _attention(config))
    if config.sparse.topk and config.mtp.indexer:
        shapes |= _under("self_attn.indexer.", _indexer(config))
    shapes["post_attention_layernorm.weight"] = (hidden,)
    return shapes | _under("mlp.", _dense(config))


def _attention(config: ModelConfig) -> dict[str, Shape]:
    hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    return {
        "q_a_proj.weight": (config.q_lora_rank, hidden),
        "q_a_layernorm.weight": (config.q_lora_rank,),
        "q_b_proj.weight": (heads * config.qk_head_dim, config.q_lora_rank),
        "kv_a_proj_with_mqa.weight": (latent + config.qk_rope_head_dim, hidden),
        "kv_a_layernorm.weight": (latent,),
        "kv_b_proj.weight": (heads * (config.qk_nope_head_dim + config.v_head_dim), latent),
        "o_proj.weight": (hidden, heads * config.v_head_dim),
    }


def _indexer(config: ModelConfig) -> dict[str, Shape]:
    sparse = config.sparse
    shapes: dict[str, Shape] = {
        "wq_b.weight": (sparse.heads * sparse.head_dim, config.q_lora_rank),
        "wk.weight": (sparse.head_dim, config.hidden_size),
        "k_norm.weight": (sparse.head_dim,),
        "weights_proj.weight": (sparse.heads, config.hidden_size),
    }
    return shapes | ({"k_norm.bias": (sparse.head_dim,)} if sparse.k_norm == "layer" else {})


def _dense(config: ModelConfig) -> dict[str, Shape]:
    wide, hidden = config.ffn_hidden_size, config.hidden_size
    return {"gate_proj.weight": (wide, hidden), "up_proj.weight": (wide, hidden), "down_proj.weight": (hidden, wide)}


Rule = Callable[[str, Shape, ModelConfig, Layout], Iterator[Part]]


def _rule(ours: str) -> Rule:
    return next((rule for suffix, rule in _STACKED.items() if ours.endswith(suffix)), _whole)


def _whole(ours: str, shape: Shape, config: ModelConfig, layout: Layout) -> Iterator[Part]:
    yield Part(layout.rename(ours), shape, ours, 0, prod(shape))


def _gate_up(ours: str, shape: Shape, config: ModelConfig, layout: Layout) -> Iterator[Part]:
    routed, _, width, hidden = shape
    if layout.experts == "fused":
        rows = routed + config.zero_expert_num
        yield Part(layout.rename(ours), (rows, 2 * width, hidden), ours, 0, prod(shape), spare_rows=True)
        return
    experts, size = layout.rename(ours.removesuffix("gate_up_proj")), width * hidden
    for expert in range(routed):
        for which, name in enumerate(("gate_proj", "up_proj")):
            yield Part(f"{experts}{expert}.{name}.weight", (width, hidden), ours, (2 * expert + which) * size, size)
    for expert in range(routed, routed + config.zero_expert_num if layout.experts == "padded" else routed):
        for name in ("gate_proj", "up_proj"):
            yield Part(f"{experts}{expert}.{name}.weight", (width, hidden), ours, 0, 0)


def _down(ours: str, shape: Shape, config: ModelConfig, layout: Layout) -> Iterator[Part]:
    if layout.experts == "fused":
        yield Part(layout.rename(ours), shape, ours, 0, prod(shape), spare_rows=True)
        return
    experts, size = layout.rename(ours.removesuffix("down_proj")), prod(shape[1:])
    for expert in range(shape[0]):
        yield Part(f"{experts}{expert}.down_proj.weight", shape[1:], ours, expert * size, size)


def _tables(ours: str, shape: Shape, config: ModelConfig, layout: Layout) -> Iterator[Part]:
    rows, width = table_rows(config), shape[1]
    starts = [0, *accumulate(rows)]
    for table, count in enumerate(rows):
        name = _ngram_names(layout)[0].format(t=table)
        yield Part(name, (count, width), ours, starts[table] * width, count * width, spare_rows=True)


def _projections(ours: str, shape: Shape, config: ModelConfig, layout: Layout) -> Iterator[Part]:
    size = prod(shape[1:])
    for table in range(shape[0]):
        yield Part(_ngram_names(layout)[1].format(t=table), shape[1:], ours, table * size, size)


def _ngram_names(layout: Layout) -> tuple[str, str]:
    if layout.ngram is None:
        raise ValueError(f"the {layout.architecture} layout has no names for n-gram tables")
    return layout.ngram


_STACKED: dict[str, Rule] = {GATE_UP: _gate_up, DOWN: _down, TABLE: _tables, PROJ: _projections}
