"""Tiny random models that say something: every part of the architecture, and a draft head that is often right."""

from __future__ import annotations

import torch

from homegrown.config import ModelConfig
from homegrown.model import Longcat


def talker(config: ModelConfig, seed: int, noise: float = 2.0, dtype: torch.dtype = torch.float32) -> Longcat:
    """A model that mostly says permutation[last token].

    The head's row of token permutation[v] is the word row of v, and layers add noise. Without any the draft head, whose
    input projection passes its word row on, is always right; with much of it the text hangs on everything the
    architecture does, and the draft head is seldom right.
    """
    model = Longcat(config)
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                parameter *= noise / parameter.std() / parameter.shape[-1] ** 0.5
            elif parameter.ndim > 1 and (".indexer." in name or ".router." in name):
                parameter /= parameter.std() * parameter.shape[-1] ** 0.5
        words = model.embed_tokens.weight
        order = torch.randperm(config.vocab_size, generator=generator)
        model.lm_head.weight[order] = words / words.norm(dim=-1, keepdim=True)
        if model.mtp is not None:
            model.mtp.layers[0].eh_proj.weight[:, : config.hidden_size] = torch.eye(config.hidden_size)
    return model.double() if dtype == torch.float64 else model.cast(dtype)


def prompts(config: ModelConfig, count: int, seed: int, longest: int = 40) -> list[list[int]]:
    """Random prompts of random lengths, in which end-of-sequence tokens occur."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(1, longest + 1, (), generator=generator))
        tokens = torch.randint(3, config.vocab_size, (length,), generator=generator)
        tokens[torch.rand(length, generator=generator) < 0.08] = config.eos_token_id
        made.append(tokens.tolist())
    return made
