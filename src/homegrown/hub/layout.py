"""The naming schemes of published checkpoints, as data.

A layout says what a directory calls its tensors and its config. The four named ones are written by `save`; `detect`
recognises these and their mixtures (names without prefix, other places of the draft head's norm) by marker tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from homegrown.config import ModelConfig
from homegrown.hub.errors import HubError, HubWarning

T = TypeVar("T")

NGRAM_STYLES = (
    ("ngram_embeddings.embedders.{t}.weight", "ngram_embeddings.post_projs.{t}.weight"),
    ("oe_embed_tokens{t}.weight", "oe_embed_proj{t}.weight"),
)
"""Names of n-gram table t and its projection, before any prefix: nested (Flash-Lite) and flat (LongCat-2.0)."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a directory calls things."""

    architecture: str
    model_type: str
    body: str = "model."
    """Prefix of everything but the language-model head."""
    ngram: tuple[str, str] | None = None
    """Full names of n-gram table {t} and of its projection; None if the scheme has none."""
    experts: Literal["each", "padded", "fused"] = "each"
    """`each`: three tensors an expert; `padded`: also gate and up for every zero expert, as `transformers` saves;
    `fused`: two tensors a layer, as `transformers` holds them in memory, zero experts among the gate_up rows."""
    mtp: str = "model.mtp."
    """Prefix of the draft head."""
    mtp_norm: str = "norm.weight"
    """Its final norm, below that prefix."""
    ngram_key: Literal["ngram", "oe"] = "ngram"
    """Which of its two names an n-gram key has in config.json."""
    yarn: Literal["yarn", "deepseek_yarn"] = "yarn"
    """What config.json calls YaRN."""

    def rename(self, ours: str) -> str:
        """The published name of a parameter that is stored whole."""
        for prefix, published in self._prefixes():
            if ours.startswith(prefix):
                return published + ours.removeprefix(prefix)
        return self.body + ours

    def _prefixes(self) -> tuple[tuple[str, str], ...]:
        return (
            ("lm_head.", "lm_head."),
            ("mtp.norm.weight", self.mtp + self.mtp_norm),
            ("mtp.layers.0.enorm.", self.mtp + "layers.0.enorm.m."),
            ("mtp.layers.0.hnorm.", self.mtp + "layers.0.hnorm.m."),
            ("mtp.layers.0.mlp.", self.mtp + "layers.0.transformer_layer.mlp."),
            ("mtp.", self.mtp),
        )


def _under(prefix: str, style: tuple[str, str]) -> tuple[str, str]:
    return prefix + style[0], prefix + style[1]


FLASH = Layout(architecture="LongcatFlashForCausalLM", model_type="longcat_flash")
LITE = Layout(
    architecture="LongcatFlashNgramForCausalLM",
    model_type="longcat_flash_ngram",
    ngram=_under("model.", NGRAM_STYLES[0]),
)
LONGCAT = Layout(
    architecture="LongcatCausalLM",
    model_type="longcat",
    ngram=_under("model.", NGRAM_STYLES[1]),
    ngram_key="oe",
    yarn="deepseek_yarn",
)
TRANSFORMERS = replace(FLASH, experts="fused")

LAYOUTS = {"flash": FLASH, "lite": LITE, "longcat": LONGCAT, "transformers": TRANSFORMERS}
"""`flash` and `lite` as LongCat-Flash and -Flash-Lite were published, `longcat` as Flash-Lite-Sparse and LongCat-2.0;
`transformers` is what `LongcatFlashForCausalLM.from_pretrained` of transformers 5 accepts."""

TRANSFORMERS_FIXED = {
    "latent_norm_eps": 1e-6,
    "scale_zero_experts": True,
    "zero_expert_type": "identity",
    "norm_topk_prob": False,
    "router_bias": False,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}
"""Fields that transformers' LongCat-Flash does not read from config.json, with the values its code has."""

ARCHITECTURES = {layout.architecture: layout for layout in (FLASH, LITE, LONGCAT)}


def default_layout(config: ModelConfig) -> Layout:
    """The scheme in which the family publishes a model of this kind."""
    if config.sparse.topk:
        return LONGCAT
    return LITE if config.ngram.order else FLASH


def named_layout(name: str, config: ModelConfig) -> Layout:
    """The layout `name`, after a check that it can hold the model.

    Raises:
        HubError: no such layout, or it has no place for some part of this model.
    """
    if name not in LAYOUTS:
        raise HubError(f"no layout {name!r}; there are: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    if config.ngram.order and layout.ngram is None:
        raise HubError(f"layout {name!r} has no names for n-gram tables, which this model has; use lite or longcat")
    if config.sparse.topk and layout is TRANSFORMERS:
        raise HubError(f"layout {name!r} cannot hold this model: transformers' LongCat-Flash has no sparse attention")
    if layout is TRANSFORMERS:
        _warn_of_differences(config)
    return layout


def detect(base: Layout, names: Container[str], config: ModelConfig) -> Layout:
    """The layout of a checkpoint that has these tensor names.

    Args:
        base: the layout that goes with the architecture in config.json; kept where the names say nothing.
        names: all tensor names.
        config: the model.
    """
    body = _first(names, {f"{prefix}embed_tokens.weight": prefix for prefix in ("model.", "")}, base.body)
    experts = _first(names, _expert_markers(body, config.n_routed_experts), base.experts)
    styles = [_under(prefix, style) for prefix in ("model.", "") for style in NGRAM_STYLES]
    ngram = _first(names, {style[0].format(t=0): style for style in styles}, base.ngram or styles[0])
    mtp = _first(names, {f"{prefix}layers.0.eh_proj.weight": prefix for prefix in ("model.mtp.", "mtp.")}, base.mtp)
    norms = ("norm.weight", "layers.0.norm.weight")
    mtp_norm = _first(names, {mtp + norm: norm for norm in norms}, base.mtp_norm)
    return replace(base, body=body, experts=experts, ngram=ngram, mtp=mtp, mtp_norm=mtp_norm)


def _warn_of_differences(config: ModelConfig) -> None:
    """Tell what transformers' LongCat-Flash will compute otherwise than this model."""
    for name, fixed in TRANSFORMERS_FIXED.items():
        value = getattr(config, name)
        if value != fixed:
            warnings.warn(
                f"layout 'transformers': this model has {name} = {value}, transformers always computes with {fixed}",
                HubWarning,
                stacklevel=3,
            )


def _expert_markers(body: str, routed: int) -> dict[str, Literal["each", "padded", "fused"]]:
    experts = f"{body}layers.0.mlp.experts."
    return {
        f"{experts}gate_up_proj": "fused",
        f"{experts}{routed}.gate_proj.weight": "padded",
        f"{experts}0.gate_proj.weight": "each",
    }


def _first(names: Container[str], markers: Mapping[str, T], otherwise: T) -> T:
    return next((value for marker, value in markers.items() if marker in names), otherwise)
