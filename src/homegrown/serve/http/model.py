"""What the HTTP side knows of the model: read from its directory, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homegrown.config import ConfigError, ModelConfig, UserError
from homegrown.serve.card import ModelCard
from homegrown.serve.messages import Sampling
from homegrown.tokenizer import Tokenizer

_QUANTISATIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "fp8": "fp8", "int8": "int8"}
"""Marketplaces' words for what a config.json says."""
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
        config: its shape.
        tokenizer: its tokenizer.
        card: what clients are told.
        defaults: sampling where a client does not say.
        stored: dtype of most weights, as its config.json says; empty if it does not.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    card: ModelCard
    defaults: Sampling
    stored: str


def describe(folder: Path, naming: Naming, dtype: str = "stored") -> Model:
    """Read a directory of the family and check that all its weights are there, of the right shapes. Reads no weights.

    Args:
        folder: a Hugging Face directory.
        naming: what is to be said of it.
        dtype: what the weights will be in memory; `stored` is what they are on disk.

    Raises:
        UserError: the directory is not what it should be; the message names what.
    """
    from homegrown.hub.checkpoint import read_json
    from homegrown.hub.published import CONFIG
    from homegrown.hub.source import open_source

    with open_source(folder) as source:
        config, generation = source.config, source.generation() or {}
    if not (folder / "tokenizer.json").exists():
        raise UserError(f"{folder}: there is no tokenizer.json; put the one the model was trained with there")
    tokenizer = Tokenizer.from_dir(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, but config.json says vocab_size = "
            f"{config.vocab_size}; one of them is another model's"
        )
    table = read_json(folder / CONFIG)
    stored = str(table.get("torch_dtype") or table.get("dtype") or "")
    kind = (table.get("quantization_config") or {}).get("quant_method", stored) if dtype == "stored" else dtype
    longest, answer = _lengths(config, naming)
    card = ModelCard(
        id=naming.id or _name(folder),
        aliases=naming.aliases or (f"anthropic/{(naming.id or _name(folder)).rpartition('/')[2]}",),
        context_length=longest,
        max_output=answer,
        created=int((folder / CONFIG).stat().st_mtime),
        quantization=_QUANTISATIONS.get(str(kind)),
        thinking=naming.thinking,
    )
    return Model(
        config=config, tokenizer=tokenizer, card=card, defaults=sampling(generation, answer), stored=stored
    )  # fmt: skip


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


def _lengths(config: ModelConfig, naming: Naming) -> tuple[int, int]:
    most = config.max_position_embeddings
    longest = naming.longest or most
    if not 1 < longest <= most:
        raise ConfigError(f"--max-model-len {longest}: must be from 2 to {most}, the positions this model was made for")
    answer = naming.longest_answer or longest
    if not 1 <= answer <= longest:
        raise ConfigError(
            f"--max-output {answer}: must be from 1 to {longest}, the tokens of prompt and answer together"
        )
    return longest, answer
