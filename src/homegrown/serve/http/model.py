"""What the HTTP side knows of the model: read from its directory, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from homegrown.config import ConfigError, ModelConfig, UserError
from homegrown.hub.checkpoint import read_json
from homegrown.hub.published import CONFIG
from homegrown.hub.source import open_source
from homegrown.hub.weights import cast
from homegrown.serve.card import ModelCard
from homegrown.serve.engine.buffers import page_bytes
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.messages import Sampling
from homegrown.tokenizer import Tokenizer

_QUANTISATIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "fp8": "fp8", "int8": "int8"}
"""Marketplaces' words for what a config.json says."""
_NORM = "norm.weight"
"""The weight whose dtype the key cache takes."""
_NO_NAMES = {"export", "model", "checkpoint"}
"""Names of directories that say nothing of what is in them."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What an operator says of the model.

    Attributes:
        id: what clients call it; empty: after its directory.
        aliases: other names that clients may use; empty: one, that agents which look for such a beginning accept.
        longest: tokens of prompt and answer; 0: as many as the model was made for.
        longest_answer: tokens; 0: as many as fit.
        thinking: it reasons where a client does not say.
    """

    id: str = ""
    aliases: tuple[str, ...] = ()
    longest: int = 0
    longest_answer: int = 0
    thinking: bool = True


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model, described.

    Attributes:
        folder: where it is.
        config: its shape.
        tokenizer: its tokenizer.
        generation: its generation_config.json.
        dtype: of most weights in memory, and of the key cache.
        quantization: of the weights, in marketplaces' words; None where they have none.
    """

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    generation: dict[str, Any]
    dtype: torch.dtype
    quantization: str | None


def describe(folder: Path, dtype: str = "stored") -> Model:
    """Read a directory of the family and check that all its weights are there, of the right shapes. Reads no weights.

    Args:
        folder: a Hugging Face directory.
        dtype: what the weights will be in memory; `stored` is what they are on disk.

    Raises:
        UserError: the directory is not what it should be; the message names what.
    """
    with open_source(folder) as source:
        config, generation = source.config, source.generation() or {}
        stored = source.weights.dtype(_NORM, 0, config.hidden_size)
        memory = cast(_NORM, stored, None if dtype == "stored" else getattr(torch, dtype))
    if not (folder / "tokenizer.json").exists():
        raise UserError(f"{folder}: there is no tokenizer.json; put the one the model was trained with there")
    tokenizer = Tokenizer.from_dir(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, but config.json says vocab_size = "
            f"{config.vocab_size}; one of them is another model's"
        )
    method = (read_json(folder / CONFIG).get("quantization_config") or {}).get("quant_method")
    word = _QUANTISATIONS.get(str(method) if method and dtype == "stored" else str(memory).removeprefix("torch."))
    return Model(
        folder=folder, config=config, tokenizer=tokenizer, generation=generation, dtype=memory, quantization=word
    )  # fmt: skip


def capacity(model: Model, options: EngineOptions) -> int:
    """Tokens that fit into the key cache if one request has all of it: none can be longer.

    Raises:
        ConfigError: the engine's options do not fit the model.
    """
    options.check(model.config)
    size = page_bytes(model.config, options.page_size, model.dtype, options.drafts(model.config) > 0)
    return (options.pages or options.memory // size) * options.page_size


def card(model: Model, naming: Naming, fits: int) -> ModelCard:
    """What clients are told.

    Args:
        model: the model.
        naming: what is to be said of it.
        fits: tokens that a request can have.

    Raises:
        ConfigError: lengths that cannot be.
    """
    most = min(model.config.max_position_embeddings, fits)
    longest = naming.longest or most
    if not 1 < longest <= most:
        raise ConfigError(
            f"--max-model-len {longest}: must be from 2 to {most}; the model was made for "
            f"{model.config.max_position_embeddings} tokens, and the key cache holds {fits} (--pages-memory)"
        )
    answer = naming.longest_answer or longest
    if not 1 <= answer <= longest:
        raise ConfigError(
            f"--max-output {answer}: must be from 1 to {longest}, the tokens of prompt and answer together"
        )
    name = naming.id or _name(model.folder)
    return ModelCard(
        id=name,
        aliases=naming.aliases or (f"anthropic/{name.rpartition('/')[2]}",),
        context_length=longest,
        max_output=answer,
        created=int((model.folder / CONFIG).stat().st_mtime),
        quantization=model.quantization,
        thinking=naming.thinking,
    )


def sampling(generation: dict[str, Any], max_tokens: int) -> Sampling:
    """Sampling as a generation_config.json recommends it."""
    greedy = generation.get("do_sample") is False
    return Sampling(
        max_tokens=max_tokens,
        temperature=0.0 if greedy else float(generation.get("temperature") or 1.0),
        top_p=float(generation.get("top_p") or 1.0),
        top_k=max(0, int(generation.get("top_k") or 0)),  # -1 is none, in some readers' words
    )


def _name(folder: Path) -> str:
    path = folder.resolve()
    return path.parent.name or path.name if path.name in _NO_NAMES else path.name
