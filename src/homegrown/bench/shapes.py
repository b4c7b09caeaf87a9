"""The shapes that benchmarks run: plain LongCat-Flash models, which other implementations compute too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from homegrown.config import ConfigError, ModelConfig, MtpConfig, NgramConfig, SparseConfig, load_preset


@dataclass(frozen=True)
class Shape:
    """A model with the batch it is trained on.

    Attributes:
        name: how it is asked for.
        model: the architecture, without n-gram tables, sparse attention and draft head.
        batch: sequences a step.
        seq_len: tokens a sequence.
    """

    name: str
    model: ModelConfig
    batch: int
    seq_len: int

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.batch * self.seq_len


def plain(config: ModelConfig) -> ModelConfig:
    """`config` as a plain LongCat-Flash, with the latent norms' ε of the family's reference code."""
    return replace(config, ngram=NgramConfig(), sparse=SparseConfig(), mtp=MtpConfig(), latent_norm_eps=1e-6)


def _quickstart() -> Shape:
    return Shape("quickstart", plain(load_preset("quickstart")), batch=8, seq_len=512)


def _tiny() -> Shape:
    """68.4M parameters, 20.8M of them active if tokens spread evenly over real and zero experts."""
    config = ModelConfig(
        vocab_size=16384,
        hidden_size=384,
        num_layers=5,
        num_attention_heads=6,
        q_lora_rank=192,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        ffn_hidden_size=512,
        expert_ffn_hidden_size=256,
        n_routed_experts=32,
        zero_expert_num=32,
        moe_topk=8,
        routed_scaling_factor=2.0,
        max_position_embeddings=8192,
    )
    return Shape("tiny", plain(config), batch=4, seq_len=512)


def _small() -> Shape:
    """355M parameters, 132M of them active if tokens spread evenly over real and zero experts."""
    config = ModelConfig(
        vocab_size=8192,
        hidden_size=768,
        num_layers=9,
        num_attention_heads=12,
        q_lora_rank=256,
        kv_lora_rank=96,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        ffn_hidden_size=1536,
        expert_ffn_hidden_size=512,
        n_routed_experts=24,
        zero_expert_num=16,
        moe_topk=6,
        routed_scaling_factor=2.0,
        max_position_embeddings=8192,
    )
    return Shape("small", plain(config), batch=2, seq_len=512)


SHAPES: dict[str, Callable[[], Shape]] = {"quickstart": _quickstart, "tiny": _tiny, "small": _small}
"""Shapes by name, smallest first."""


def shape(name: str, batch: int = 0, seq_len: int = 0) -> Shape:
    """The shape `name`, with another batch or sequence length where these are not zero.

    Raises:
        ConfigError: there is no such shape, or a size is impossible; the message says what would be right.
    """
    if name not in SHAPES:
        raise ConfigError(f"no benchmark shape {name!r}; there are: {', '.join(SHAPES)}")
    made = SHAPES[name]()
    made = replace(made, batch=batch or made.batch, seq_len=seq_len or made.seq_len)
    longest = made.model.max_position_embeddings
    if made.batch < 1 or not 2 <= made.seq_len <= longest:
        raise ConfigError(
            f"shape {name!r} with batch {made.batch} and sequences of {made.seq_len}: the batch must be at least 1 and "
            f"the sequence between 2 and {longest} tokens long"
        )
    return made
