"""Components of a model, by which memory and work are told apart."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from torch import nn

from homegrown.model import Longcat
from homegrown.model.router import MixtureOfExperts
from homegrown.train.dryrun.meter import Meter

COMPONENTS = (
    "word embedding", "n-gram tables", "n-gram projections", "attention", "indexer", "dense feed-forward", "router",
    "experts", "norms", "head", "draft head", "other",
)  # fmt: skip
"""In the order of tables. `other` is what lies between: residual stream, losses, pipeline."""

_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"mtp(\..*)?", "draft head"),
    (r"embed_tokens(\.weight)?", "word embedding"),
    (r"ngram_embeddings\.proj", "n-gram projections"),
    (r"ngram_embeddings(\.table)?", "n-gram tables"),
    (r".*\.indexer(\..*)?", "indexer"),
    (r".*\.self_attn\.\d+(\..*)?", "attention"),
    (r".*\.mlps\.\d+(\..*)?", "dense feed-forward"),
    (r".*\.router(\..*)?", "router"),
    (r".*\.experts(\..*)?", "experts"),
    (r"(.*\.\w+_layernorm\.\d+|norm)(\.weight)?", "norms"),
    (r"lm_head(\.weight)?", "head"),
)
_COMPILED = tuple((re.compile(pattern), component) for pattern, component in _PATTERNS)


def component_of(name: str) -> str:
    """The component of a module or a parameter, by its name in the whole model."""
    return next((component for pattern, component in _COMPILED if pattern.fullmatch(name)), "other")


def tell_apart(model: Longcat, meter: Meter) -> None:
    """Let a meter know which component of a model, or of a part of one, is in progress. The model is changed in place.

    Hooks stand around those that parallelism has set before, so that traffic counts as its component's.
    """
    for name, module in model.named_modules():
        component = component_of(name)
        module.register_forward_pre_hook(partial(_enter, meter, component), prepend=True)
        module.register_forward_hook(partial(_leave, meter), always_call=True)
    # What is called by other names than `forward`.
    for mixture in (module for module in model.modules() if isinstance(module, MixtureOfExperts)):
        for phase in ("send", "compute", "receive"):
            meter.watch(mixture.dispatcher, phase, partial(meter.inside, "experts"))
    if model.lm_head is not None:
        meter.watch(model.lm_head, "scorer", partial(meter.inside, "head"))


def _enter(meter: Meter, component: str, module: nn.Module, args: Any) -> None:
    meter.enter(component)


def _leave(meter: Meter, module: nn.Module, args: Any, out: Any) -> None:
    meter.leave()
