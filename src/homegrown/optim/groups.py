"""Which optimizer, rate and decay a parameter gets: a pure function of its name, its shape and the configs.

The groups, and why they are cut so:

- Muon orthogonalises *matrices that map hidden vectors to hidden vectors*: attention projections, dense FFN, experts,
  n-gram projections and the MTP input projection. A stacked parameter holds one matrix in its last two axes for each
  index of the axes before them, so every expert's gate, up and down (`[E, 2, F, H]`, `[E, H, F]`) and every table's
  projection (`[T, H, H/T]`) is a matrix of its own. Attention projections are orthogonalised whole, across heads:
  this is the matrix that the layer applies, and it is what "whole-matrix Muon" means.
- AdamW takes what is looked up rather than multiplied (embedding, n-gram tables), the output head, the router (its rows
  compete in a softmax), the indexer (trained by a loss of its own), and everything with one axis.
- Decay is for matrices. Norms, biases and n-gram tables have none: a table row gets a gradient only when its n-gram
  occurs, and decay would wear away the rare ones.

Width transfer (arXiv 2509.01322 table 1, Adam with standard parametrisation): rates tuned at `base_width` are
multiplied by base_width / hidden_size for every matrix that multiplies a hidden vector, the head included; embeddings,
tables and vectors keep theirs. Muon's rate is stable under width through its 0.2 sqrt(max(rows, cols)) factor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from homegrown.config import ConfigError, ModelConfig, OptimConfig

HIDDEN = "hidden matrices"
EXPERTS = "experts"
NGRAM_PROJECTIONS = "n-gram projections"
ROUTER = "router"
INDEXER = "indexer"
EMBEDDING = "embedding"
NGRAM_TABLES = "n-gram tables"
HEAD = "head"
NORMS = "norms"
BIASES = "biases"

GROUP_NAMES = (HIDDEN, EXPERTS, NGRAM_PROJECTIONS, ROUTER, INDEXER, EMBEDDING, NGRAM_TABLES, HEAD, NORMS, BIASES)
"""Every group, in the order in which they are shown."""

ROW_GROUPS = (EMBEDDING, NGRAM_TABLES)
"""Groups whose parameters are tables of rows, of which a step uses a few."""

_ATTENTION = r"(layers\.\d+\.self_attn\.[01]|mtp\.layers\.0\.self_attn)"

_PATTERNS: tuple[tuple[str, str, int], ...] = (
    (HIDDEN, rf"{_ATTENTION}\.(q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj)\.weight", 2),
    (HIDDEN, r"(layers\.\d+\.mlps\.[01]|mtp\.layers\.0\.mlp)\.(gate|up|down)_proj\.weight", 2),
    (HIDDEN, r"mtp\.layers\.0\.eh_proj\.weight", 2),
    (EXPERTS, r"layers\.\d+\.mlp\.experts\.gate_up_proj", 4),
    (EXPERTS, r"layers\.\d+\.mlp\.experts\.down_proj", 3),
    (NGRAM_PROJECTIONS, r"ngram_embeddings\.proj", 3),
    (ROUTER, r"layers\.\d+\.mlp\.router\.classifier\.weight", 2),
    (INDEXER, rf"{_ATTENTION}\.indexer\.(wq_b|wk|weights_proj)\.weight", 2),
    (EMBEDDING, r"embed_tokens\.weight", 2),
    (NGRAM_TABLES, r"ngram_embeddings\.table", 2),
    (HEAD, r"lm_head\.weight", 2),
    (NORMS, r"(mtp\.)?norm\.weight", 1),
    (NORMS, r"layers\.\d+\.(input|post_attention)_layernorm\.[01]\.weight", 1),
    (NORMS, r"mtp\.layers\.0\.(enorm|hnorm|input_layernorm|post_attention_layernorm)\.weight", 1),
    (NORMS, rf"{_ATTENTION}\.(q_a_layernorm|kv_a_layernorm|indexer\.k_norm)\.weight", 1),
    (BIASES, rf"({_ATTENTION}\.indexer\.k_norm|layers\.\d+\.mlp\.router\.classifier)\.bias", 1),
)
_COMPILED = tuple((group, re.compile(pattern), axes) for group, pattern, axes in _PATTERNS)


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimizer, a learning rate and a decay."""

    name: str
    optimizer: Literal["muon", "adamw"]
    lr: float
    """Peak learning rate, width transfer included; the schedule multiplies it."""
    weight_decay: float
    """Decoupled: a step multiplies the weights by 1 - lr * weight_decay."""


def group_of(name: str, shape: Sequence[int], optim: OptimConfig, model: ModelConfig) -> Group:
    """The group of the parameter `name` of shape `shape`.

    Raises:
        ConfigError: no group is defined for this name, or its shape has another number of axes than such a
            parameter has. There is no default group.
    """
    for group, pattern, axes in _COMPILED:
        if pattern.fullmatch(name):
            if len(shape) != axes:
                raise ConfigError(f"parameter {name!r} has shape {list(shape)}: one of {group!r} has {axes} axes")
            return _settings(group, optim, model)
    raise ConfigError(
        f"parameter {name!r} of shape {list(shape)}: no optimizer group is defined for this name; "
        "give it one in homegrown/optim/groups.py or freeze it (requires_grad = False)"
    )


def _settings(group: str, optim: OptimConfig, model: ModelConfig) -> Group:
    width = optim.base_width / model.hidden_size if optim.base_width else 1.0
    decay = optim.weight_decay
    if group in (HIDDEN, EXPERTS, NGRAM_PROJECTIONS):
        if optim.hidden == "muon":
            return Group(group, "muon", optim.muon_lr, decay)
        return Group(group, "adamw", optim.adam_lr * width, decay)
    lr, weight_decay = {
        ROUTER: (optim.adam_lr * width, decay),
        INDEXER: (optim.indexer_lr * width, decay),
        # Rows get gradients rarely and live at rates far above a matrix's: decay would only fade them.
        EMBEDDING: (optim.embed_lr, 0.0),
        NGRAM_TABLES: (optim.ngram_lr, 0.0),
        HEAD: (optim.head_lr * width, decay),
        NORMS: (optim.adam_lr, 0.0),
        BIASES: (optim.adam_lr, 0.0),
    }[group]
    return Group(group, "adamw", lr, weight_decay)
