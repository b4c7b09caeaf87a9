"""What a LongCat-family model is, in numbers.

One dataclass per idea. Every default is written here; a feature is off when its count is zero
(`ngram.order`, `sparse.topk`, `mtp.layers`), so no field is optional and none hides behind `None`.
Field names follow the family's published configs; `hub` knows their aliases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from homegrown.config.errors import ConfigError


def require(ok: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `ok`."""
    if not ok:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary positions, plain or YaRN (`deepseek_yarn` in published configs)."""

    theta: float = 1e6
    """Base of the rotary frequencies."""
    type: Literal["none", "yarn"] = "none"
    """`yarn` blends interpolated and original frequencies and rescales the softmax."""
    factor: float = 1.0
    """YaRN: how many times the original context is stretched."""
    original_max_position: int = 8192
    """YaRN: the context length the frequencies were trained for."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NgramConfig:
    """Hashed n-gram embeddings (arXiv 2601.21204)."""

    order: int = 0
    """Longest n-gram n (published `emb_neighbor_num`/`oe_neighbor_num`); 0 turns the tables off."""
    splits: int = 4
    """Independent hash tables per order, k (`emb_split_num`/`oe_split_num`)."""
    ratio: float = 0.0
    """Rows of a table over the vocabulary: m = int(ratio * vocab_size), table t has m + 2t + 1 rows."""
    fusion: Literal["mean", "residual"] = "mean"
    """`mean` averages the word row with the tables' rows; `residual` keeps the word row at full scale."""
    stop_at_eos: bool = True
    """A look-back never crosses an end-of-sequence token."""
    accumulate: Literal["fp32", "sequential"] = "fp32"
    """`sequential` adds table by table in the parameters' dtype, as the reference code does in bf16."""

    @property
    def tables(self) -> int:
        """Number of tables T = k (n - 1)."""
        return self.splits * (self.order - 1) if self.order else 0


@dataclass(frozen=True, kw_only=True)
class SparseConfig:
    """LongCat Sparse Attention: an indexer selects the keys that core attention sees (arXiv 2608.01662)."""

    topk: int = 0
    """Total budget of keys per query, sinks and window included; 0 turns LSA off."""
    heads: int = 0
    head_dim: int = 128
    """Width of an indexer head; its first `qk_rope_head_dim` lanes are rotated."""
    init_tokens: int = 16
    """Sink tokens at the start of the sequence that are always selected."""
    local_tokens: int = 1024
    """Most recent tokens that are always selected."""
    share: int = 2
    """Cross-layer index reuse (`cli_factor`): one owner attention sublayer per this many."""
    k_norm: Literal["rms", "layer"] = "rms"
    k_norm_eps: float = 1e-6
    rope_interleaved: bool = True
    """Pair lanes (2i, 2i+1); False pairs (i, i + d/2)."""
    scale_scores: bool = True
    """Keep the constants heads^-0.5 * head_dim^-0.5 in the scores: they set the KL's temperature."""
    hierarchical: bool = False
    """Hierarchical indexing (inference only): score pages first, tokens only inside the best pages."""
    hierarchical_threshold: int = 262144
    """Visible keys from which hierarchical indexing is used."""
    hierarchical_skip_owners: int = 4
    """The first owners always score every token."""
    page_size: int = 128
    page_block: int = 8
    """Keys averaged into one representative when a page is scored."""
    page_topk: int = 1024


@dataclass(frozen=True, kw_only=True)
class MtpConfig:
    """Multi-token prediction: one dense block, unrolled for `steps` draft steps."""

    layers: int = 0
    """Physical blocks: 0 (no MTP) or 1, as in every published model."""
    steps: int = 1
    """Draft steps the block is unrolled for (shared weights)."""
    use_ngram: bool = False
    """Embed draft tokens with the n-gram tables; published models use the plain word row."""
    indexer: bool = True
    """Sparse models: the block owns an indexer (step 1 selects, later steps reuse); False drafts densely."""
    chain: Literal["post_norm", "pre_norm"] = "post_norm"
    """Which hidden state a step hands on: after or before the final norm."""
    keep_unused: bool = False
    """Keep the block's own embedding and n-gram tensors found on disk (unused by the forward pass)."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One member of the LongCat family. The defaults are LongCat-Flash's ratios at no particular size."""

    vocab_size: int = 131072
    hidden_size: int = 6144
    num_layers: int = 28
    """Logical layers; each holds two attention and two dense sublayers and one MoE."""
    num_attention_heads: int = 64
    q_lora_rank: int = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    ffn_hidden_size: int = 12288
    expert_ffn_hidden_size: int = 2048
    n_routed_experts: int = 512
    zero_expert_num: int = 256
    zero_expert_type: Literal["identity", "drop"] = "identity"
    moe_topk: int = 12
    routed_scaling_factor: float = 6.0
    """Factor γ on the gates (variance compensation of fine-grained experts)."""
    scale_zero_experts: bool = True
    """Apply γ to zero experts too (paper, reference code); False matches SGLang 0.5."""
    router_bias: bool = False
    """A learned bias in the router's linear map (no published model has one)."""
    norm_topk_prob: bool = False
    """Renormalise the chosen gates to sum to one before γ (no published model does)."""
    rms_norm_eps: float = 1e-5
    latent_norm_eps: float = 1e-5
    """ε of the two latent norms inside MLA; 1e-6 in the reference code of LongCat-Flash."""
    mla_scale_q_lora: bool = True
    mla_scale_kv_lora: bool = True
    max_position_embeddings: int = 131072
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 3
    initializer_range: float = 0.02
    """Standard deviation σ of the initial weights, before width scaling."""
    rope: RopeConfig = field(default_factory=RopeConfig)
    ngram: NgramConfig = field(default_factory=NgramConfig)
    sparse: SparseConfig = field(default_factory=SparseConfig)
    mtp: MtpConfig = field(default_factory=MtpConfig)

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_layers", "num_attention_heads", "q_lora_rank", "kv_lora_rank",
            "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "ffn_hidden_size", "expert_ffn_hidden_size",
            "n_routed_experts", "moe_topk", "max_position_embeddings",
        ):  # fmt: skip
            value = getattr(self, name)
            require(value > 0, f"model.{name} = {value}: must be at least 1")
        require(self.zero_expert_num >= 0, f"model.zero_expert_num = {self.zero_expert_num}: must not be negative")
        require(
            self.qk_rope_head_dim % 2 == 0,
            f"model.qk_rope_head_dim = {self.qk_rope_head_dim}: rotary pairs need an even width",
        )
        choices = self.n_routed_experts + self.zero_expert_num
        require(
            self.moe_topk <= choices,
            f"model.moe_topk = {self.moe_topk}: there are only {choices} experts "
            f"({self.n_routed_experts} routed + {self.zero_expert_num} zero)",
        )
        self._check_ngram()
        self._check_sparse()
        require(self.mtp.layers in (0, 1), f"model.mtp.layers = {self.mtp.layers}: must be 0 or 1")
        require(self.mtp.steps >= 1, f"model.mtp.steps = {self.mtp.steps}: must be at least 1")

    def _check_ngram(self) -> None:
        ngram = self.ngram
        if not ngram.order:
            return
        require(ngram.order >= 2, f"model.ngram.order = {ngram.order}: must be 0 (off) or at least 2")
        require(
            self.hidden_size % ngram.tables == 0,
            f"model.hidden_size = {self.hidden_size}: must be divisible by the number of n-gram tables, "
            f"splits * (order - 1) = {ngram.tables}",
        )
        require(ngram.ratio > 0, f"model.ngram.ratio = {ngram.ratio}: must be positive when ngram.order is set")

    def _check_sparse(self) -> None:
        sparse = self.sparse
        if not sparse.topk:
            return
        require(sparse.heads > 0, f"model.sparse.heads = {sparse.heads}: must be positive when sparse.topk is set")
        require(
            sparse.head_dim >= self.qk_rope_head_dim,
            f"model.sparse.head_dim = {sparse.head_dim}: must be at least qk_rope_head_dim = {self.qk_rope_head_dim}",
        )
        fixed = sparse.init_tokens + sparse.local_tokens
        require(
            fixed <= sparse.topk,
            f"model.sparse.topk = {sparse.topk}: the budget includes the {fixed} sink and window tokens",
        )
        require(sparse.local_tokens >= 1, f"model.sparse.local_tokens = {sparse.local_tokens}: must be at least 1")
        sublayers = 2 * self.num_layers
        require(
            sparse.share >= 1 and sublayers % sparse.share == 0,
            f"model.sparse.share = {sparse.share}: must divide the {sublayers} attention sublayers",
        )
        require(
            sparse.page_size % sparse.page_block == 0,
            f"model.sparse.page_size = {sparse.page_size}: must be a multiple of page_block = {sparse.page_block}",
        )
        if not sparse.hierarchical:
            return
        require(
            sparse.page_size <= sparse.local_tokens,
            f"model.sparse.page_size = {sparse.page_size}: must not exceed local_tokens = {sparse.local_tokens}, since "
            "the window stands in for the page that is seen in part",
        )
        require(
            sparse.page_topk * sparse.page_size >= sparse.topk,
            f"model.sparse.page_topk = {sparse.page_topk}: its pages hold {sparse.page_topk * sparse.page_size} keys, "
            f"fewer than topk = {sparse.topk}",
        )

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key head, rope lanes included."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def attention_sublayers(self) -> int:
        """A = 2 * num_layers: the number of latent caches of the main model."""
        return 2 * self.num_layers
