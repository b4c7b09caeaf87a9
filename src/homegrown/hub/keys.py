"""Published names of the fields of `ModelConfig`, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homegrown.hub.errors import HubError


@dataclass(frozen=True)
class Key:
    """A field of ours (dotted path) and its published names, the one that wins first."""

    field: str
    names: tuple[str, ...]
    required: bool = True

    def find(self, table: dict[str, Any], where: str) -> Any:
        """The published value, None if it is not there and need not be."""
        value = next((table[name] for name in self.names if table.get(name) is not None), None)
        if value is None and self.required:
            alias = "".join(f" (or {name!r})" for name in self.names[1:])
            raise HubError(f"{where}: key {self.names[0]!r}{alias} is missing")
        return value

    def of(self, ours: dict[str, Any]) -> Any:
        """The field's value in a table of ours."""
        value: Any = ours
        for name in self.field.split("."):
            value = value[name]
        return value

    def put(self, ours: dict[str, Any], value: Any) -> None:
        """Set the field in a table of ours."""
        *above, last = self.field.split(".")
        for name in above:
            ours = ours.setdefault(name, {})
        ours[last] = value


def _keys(required: bool, **fields: str) -> tuple[Key, ...]:
    return tuple(Key(field.replace("__", "."), tuple(names.split()), required) for field, names in fields.items())


MAIN_KEYS = _keys(
    True,
    vocab_size="vocab_size",
    hidden_size="hidden_size",
    num_attention_heads="num_attention_heads",
    q_lora_rank="q_lora_rank",
    kv_lora_rank="kv_lora_rank",
    qk_nope_head_dim="qk_nope_head_dim",
    qk_rope_head_dim="qk_rope_head_dim",
    v_head_dim="v_head_dim",
    ffn_hidden_size="ffn_hidden_size intermediate_size",
    expert_ffn_hidden_size="expert_ffn_hidden_size moe_intermediate_size",
    n_routed_experts="n_routed_experts",
    zero_expert_num="zero_expert_num",
    moe_topk="moe_topk num_experts_per_tok",
    routed_scaling_factor="routed_scaling_factor",
    rms_norm_eps="rms_norm_eps",
    max_position_embeddings="max_position_embeddings",
)
OPTIONAL_KEYS = _keys(
    False,
    zero_expert_type="zero_expert_type",
    norm_topk_prob="norm_topk_prob",
    router_bias="router_bias",
    mla_scale_q_lora="mla_scale_q_lora",
    mla_scale_kv_lora="mla_scale_kv_lora",
    bos_token_id="bos_token_id",
    eos_token_id="eos_token_id",
    pad_token_id="pad_token_id",
    initializer_range="initializer_range",
    latent_norm_eps="latent_norm_eps",
)
NGRAM_KEYS = _keys(
    True,
    ngram__ratio="ngram_vocab_size_ratio oe_vocab_size_ratio",
    ngram__order="emb_neighbor_num oe_neighbor_num",
    ngram__splits="emb_split_num oe_split_num",
)
SPARSE_KEYS = _keys(
    True,
    sparse__topk="index_topk",
    sparse__heads="index_n_heads",
    sparse__head_dim="index_head_dim",
    sparse__init_tokens="index_init_tokens",
    sparse__local_tokens="index_local_tokens",
    sparse__share="cli_factor",
    sparse__k_norm="index_k_norm_type",
) + _keys(False, sparse__rope_interleaved="indexer_rope_interleave")
