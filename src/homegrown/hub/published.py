"""config.json of the family: published keys and their aliases <-> `ModelConfig`.

What published keys cannot say goes into one nested key, `homegrown`, which holds just the fields that differ from what
the published keys imply; so any `ModelConfig` comes back exactly, and other engines still read the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from homegrown.config import ConfigError, ModelConfig, build, overlay, to_table
from homegrown.hub.errors import HubError, HubWarning
from homegrown.hub.keys import MAIN_KEYS, NGRAM_KEYS, OPTIONAL_KEYS, SPARSE_KEYS, Key
from homegrown.hub.layout import ARCHITECTURES, TRANSFORMERS, Layout
from homegrown.hub.rope import read_rope, write_rope

CONFIG = "config.json"
OURS = "homegrown"


LATENT_NORM_EPS = {"LongcatFlashForCausalLM": 1e-6, "LongcatFlashNgramForCausalLM": 1e-6, "LongcatCausalLM": 1e-5}
"""ε of the latent norms where config.json does not say: the reference code's for the first two, the engines' for the
third, which has no other complete official runtime."""

MODEL_TYPES = {layout.model_type: name for name, layout in ARCHITECTURES.items()} | {
    "longcat_flash_pro": "LongcatCausalLM"
}

REFUSED = {
    "attention_bias": (False,),
    "tie_word_embeddings": (False,),
    "hidden_act": ("silu",),
}
"""Keys that describe what the family has not, with the values that are right."""

FIXED = {
    "attention_bias": False,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "router_dtype": "float32",
    "use_cache": True,
}
SPARSE_DRAFT_STEPS = 3
"""Draft steps of LongCat-Flash-Lite-Sparse (arXiv 2608.01662 section 6.1); its config.json counts its one block."""


def architecture(table: dict[str, Any], where: str) -> str:
    """The architecture that a config.json names, in `architectures` or else by `model_type`.

    Raises:
        HubError: none, or one outside the family.
    """
    names = table.get("architectures") or [MODEL_TYPES.get(str(table.get("model_type")))]
    name = names[0] if isinstance(names, list) else names
    if name not in ARCHITECTURES:
        found = name or table.get("model_type")
        problem = f"unknown architecture {found!r}" if found else "key 'architectures' is missing"
        raise HubError(f"{where}: {problem}; known are {', '.join(ARCHITECTURES)}")
    return name


def parse_config(table: dict[str, Any], where: str) -> ModelConfig:
    """The model that a config.json describes.

    Args:
        table: its content.
        where: file, for messages.

    Raises:
        HubError: a key is missing, of the wrong type, or asks for something the family has not.
    """
    _refuse(table, where)
    ours = table.get(OURS) or {}
    if not isinstance(ours, dict):
        raise HubError(f"{where}: key {OURS!r} must be an object")
    try:
        implied = build(ModelConfig, _implied(table, where), where)
        return build(ModelConfig, overlay(to_table(implied), ours), where) if ours else implied
    except ConfigError as error:
        raise HubError(str(error)) from None


def render_config(config: ModelConfig, layout: Layout, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json.

    Args:
        config: the model.
        layout: decides the architecture and which of several names a key gets.
        dtype: of most weights.
    """
    table: dict[str, Any] = {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "num_layers": config.num_layers,
    }
    values = to_table(config)
    for key in MAIN_KEYS + OPTIONAL_KEYS:
        table[key.names[0]] = key.of(values)
    if layout.architecture == TRANSFORMERS.architecture:
        table["head_dim"] = config.qk_rope_head_dim  # transformers sizes its rotary table by it
    table |= FIXED | write_rope(config.rope, layout.yarn)
    if config.ngram.order:
        table |= {key.names[layout.ngram_key == "oe"]: key.of(values) for key in NGRAM_KEYS}
    if config.sparse.topk:
        table |= {"attention_method": "LSA", "use_mla": 1}
        table |= {key.names[0]: key.of(values) for key in SPARSE_KEYS}
    table |= _mtp_table(config, layout)
    differing = _difference(values, to_table(parse_config(table, CONFIG)))
    return table | ({OURS: differing} if differing else {})


def _implied(table: dict[str, Any], where: str) -> dict[str, Any]:
    """What the published keys alone say, as a table of our fields."""
    groups = MAIN_KEYS + OPTIONAL_KEYS
    ours: dict[str, Any] = {
        "num_layers": _layers(table, where),
        "latent_norm_eps": LATENT_NORM_EPS[architecture(table, where)],
        "rope": read_rope(table, where),
    }
    if _active(table, NGRAM_KEYS[0]):
        groups += NGRAM_KEYS
    if _active(table, SPARSE_KEYS[0]):
        groups += SPARSE_KEYS
    for key in groups:
        value = key.find(table, where)
        if value is not None:
            key.put(ours, value)
    if ours.get("zero_expert_type") == "copy":
        ours["zero_expert_type"] = "identity"
    if isinstance(eos := ours.get("eos_token_id"), list) and len(eos) == 1:
        ours["eos_token_id"] = eos[0]
    ours["mtp"] = _mtp(table, where)
    return ours


def _active(table: dict[str, Any], key: Key) -> bool:
    """Whether a count is there and not zero: that switches its group on."""
    return any(table.get(name) for name in key.names)


def _layers(table: dict[str, Any], where: str) -> Any:
    """Logical layers. `num_hidden_layers` is 2 · num_layers in transformers and num_layers in the engines; alone it is
    read as transformers', which has no other name for it."""
    layers, hidden = table.get("num_layers"), table.get("num_hidden_layers")
    if layers is None:
        if hidden is None:
            raise HubError(f"{where}: key 'num_layers' is missing")
        if not isinstance(hidden, int) or hidden % 2:
            raise HubError(f"{where}: num_hidden_layers is {hidden!r} without num_layers; it must be 2 * num_layers")
        return hidden // 2
    if hidden is not None and hidden not in (layers, 2 * layers):
        raise HubError(
            f"{where}: num_hidden_layers is {hidden}, num_layers {layers}; it must be num_layers or twice that"
        )
    return layers


def _mtp(table: dict[str, Any], where: str) -> dict[str, Any]:
    own, nextn = table.get("mtp_num_layers"), table.get("num_nextn_predict_layers")
    steps = own if own is not None else nextn or 0
    replicate = table.get("mtp_replicate_modules")
    if not isinstance(steps, int):
        raise HubError(f"{where}: mtp_num_layers is {steps!r}; it must be a whole number")
    if steps > 1 and not replicate:
        raise HubError(
            f"{where}: {steps} MTP layers without mtp_replicate_modules: several physical draft blocks; the family has "
            "one, unrolled"
        )
    if own == 1 and replicate is None and table.get("index_topk"):
        steps = SPARSE_DRAFT_STEPS
    return {
        "layers": min(steps, 1),
        "steps": max(steps, 1),
        "use_ngram": table.get("mtp_disable_over_tokenizer") is False and _active(table, NGRAM_KEYS[0]),
    }


def _mtp_table(config: ModelConfig, layout: Layout) -> dict[str, Any]:
    if not config.mtp.layers:
        return {}
    if not config.ngram.order and not config.sparse.topk and config.mtp.steps == 1:
        return {"num_nextn_predict_layers": 1}
    table: dict[str, Any] = {"mtp_num_layers": config.mtp.steps, "mtp_replicate_modules": True}
    if config.ngram.order:
        table["mtp_disable_over_tokenizer"] = not config.mtp.use_ngram
    if config.sparse.topk:
        table["dsa_mtp_cli"] = True
    return table


def _refuse(table: dict[str, Any], where: str) -> None:
    for key, right in REFUSED.items():
        value = table.get(key)
        if value is not None and value not in right:
            raise HubError(f"{where}: {key} is {value!r}; the family has {right[0]!r} only")
    text_vocab = table.get("text_vocab_size")
    if text_vocab is not None and text_vocab != table.get("vocab_size"):
        raise HubError(
            f"{where}: text_vocab_size is {text_vocab}, vocab_size {table.get('vocab_size')}: a multimodal model; only "
            "text models are supported"
        )
    if table.get("ignored_token_ids") and _active(table, NGRAM_KEYS[0]):
        warnings.warn(
            f"{where}: ignored_token_ids is not honoured: tokens {table['ignored_token_ids']} are hashed like others",
            HubWarning,
            stacklevel=2,
        )


def _difference(wanted: dict[str, Any], implied: dict[str, Any]) -> dict[str, Any]:
    """The leaves of `wanted` that are otherwise in `implied`."""

    def leaves() -> Iterator[tuple[str, Any]]:
        for name, value in wanted.items():
            if isinstance(value, dict):
                below = _difference(value, implied[name])
                if below:
                    yield name, below
            elif value != implied[name]:
                yield name, value

    return dict(leaves())
