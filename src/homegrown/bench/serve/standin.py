"""A random model with a tokenizer, for measurements that need no trained one: `homegrown bench serve --random tiny`."""

from __future__ import annotations

import sysconfig
from dataclasses import replace
from pathlib import Path

import torch

from homegrown import hub
from homegrown.bench.shapes import SHAPES, shape
from homegrown.config import ConfigError, ModelConfig, UserError, load_preset
from homegrown.model import Longcat
from homegrown.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer

SPARSE = "sparse"
LONGEST = 131_072
"""Tokens that it reads."""


def write_standin(name: str, folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Write a LongCat-Flash directory that this project and `transformers` both load; `sparse`: only this project.

    The model never says an end-of-sequence token, a tag or a piece of a character: their rows of the output head are
    zero, and zero is never the highest of thousands of random logits. So a greedy answer ends by its length alone,
    whatever the server makes of `ignore_eos`, and every token of it is text that can be seen to arrive.

    Args:
        name: of a shape in `bench.shapes`, or `sparse`: the quickstart's model as it is, for 131,072 tokens.
        folder: must not exist yet.
        dtype: of the weights.
        seed: of the weights.

    Returns:
        `folder`.

    Raises:
        ConfigError: there is no such shape.
        UserError: the standard library's source, of which the tokenizer is made, is not installed.
    """
    config = _config(name)
    tokenizer = train_tokenizer(_source(), config.vocab_size)
    model = Longcat(config)
    model.init_weights(seed)
    with torch.no_grad():
        model.lm_head.weight[_silent(tokenizer, config.vocab_size)] = 0
    generation = {"do_sample": False, "eos_token_id": tokenizer.eos_id}
    layout = None if name == SPARSE else "transformers"
    hub.save(model, tokenizer, folder, layout=layout, dtype=dtype, generation=generation)
    return folder


def _config(name: str) -> ModelConfig:
    if name == SPARSE:
        return replace(load_preset("quickstart"), max_position_embeddings=LONGEST)
    if name not in SHAPES:
        raise ConfigError(f"no random model {name!r}; there are: {', '.join([*SHAPES, SPARSE])}")
    return shape(name).model


def _source() -> list[str]:
    """The standard library's own modules, in a fixed order."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))
    if not paths:
        raise UserError("the standard library's source is not installed, and the tokenizer is made of it")
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths]


def _silent(tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """Ids that are no text of their own: special tokens, incomplete characters, ids without a token."""
    special = len(SPECIAL_TOKENS)
    return [*range(special), *(token for token in range(special, vocab_size) if not _is_text(tokenizer, token))]


def _is_text(tokenizer: Tokenizer, token: int) -> bool:
    try:
        return token < tokenizer.vocab_size and bool(tokenizer.decode_bytes([token]).decode())
    except UnicodeDecodeError:
        return False
