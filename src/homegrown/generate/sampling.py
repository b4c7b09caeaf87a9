"""From logits to a token: greedy, or drawn from a tempered and truncated distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.generate.errors import GenerateError


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How one text is made. The defaults follow the family's releases: temperature 1, nucleus 0.95."""

    temperature: float = 1.0
    """Logits are divided by this; 0 is greedy: always the likeliest token."""
    top_p: float = 0.95
    """Draw from the fewest likeliest tokens that together have at least this probability; 1 keeps all."""
    top_k: int = 0
    """Draw from this many likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Draw from tokens at least this fraction as likely as the likeliest; 0 keeps all."""
    seed: int = 0
    """The same seed, prompt and settings give the same text."""
    max_tokens: int = 256
    """End after this many tokens."""
    stop: tuple[str, ...] = ()
    """End where one of these texts appears; it is not part of the result."""
    stop_ids: tuple[int, ...] = ()
    """End at one of these tokens, as at the end-of-sequence token."""

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0.0, math.inf), ("top_p", 0.0, 1.0), ("min_p", 0.0, 1.0)):
            value = getattr(self, name)
            if not low <= value <= high or not math.isfinite(value):
                raise GenerateError(f"{name} = {value}: must lie in [{low:g}, {high:g}]")
        if self.top_p == 0:
            raise GenerateError("top_p = 0: must be above 0; for the likeliest token alone use temperature = 0")
        for name, least in (("top_k", 0), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise GenerateError(f"{name} = {getattr(self, name)}: must be at least {least}")
        if "" in self.stop:
            raise GenerateError("stop = '': an empty text stops everywhere")


class Sampler:
    """Chooses tokens for one request.

    All arithmetic runs on the host in float64 and one uniform number is drawn per token from a generator of the
    request's own, so a request's text depends on nothing but its settings and the logits.
    """

    def __init__(self, config: SamplingConfig) -> None:
        self._config = config
        self._generator = torch.Generator().manual_seed(config.seed)

    def __call__(self, logits: Tensor) -> int:
        """A token for logits [V].

        Raises:
            GenerateError: the logits hold a NaN or an infinity: the weights are damaged.
        """
        if self._config.temperature == 0:
            return int(greedy(logits))
        probs, tokens = distribution(logits, self._config)
        point = torch.rand((), dtype=torch.float64, generator=self._generator)
        heights = probs.cumsum(0)
        # The last step of a rounded sum may fall short of one.
        place = torch.searchsorted(heights, point * heights[-1], right=True).clamp(max=len(heights) - 1)
        return int(tokens[place])


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row, [..., V] -> int64 [...]; the first of equals."""
    return logits.argmax(-1)


def distribution(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn, likeliest first (of equals the lowest id), and their probabilities.

    Temperature, top-k, top-p and min-p apply in this order, each to the renormalised result of the one before, as in
    `transformers`.

    Args:
        logits: [V].
        config: temperature above 0.

    Returns:
        float64 [N] probabilities that sum to one, int64 [N] tokens.
    """
    scores = logits.detach().to("cpu", torch.float64)
    if not torch.isfinite(scores).all():
        raise GenerateError("the model's logits are not finite; its weights are damaged or its training has diverged")
    scores, tokens = scores.sort(descending=True, stable=True)
    count = len(scores) if config.top_k == 0 else min(config.top_k, len(scores))
    # From the top down, so that a small temperature cannot overflow.
    probs = ((scores[:count] - scores[0]) / config.temperature).softmax(0)
    if config.top_p < 1:
        before = probs.cumsum(0) - probs
        probs = probs[before < config.top_p]
    probs = probs[probs >= config.min_p * probs[0]]
    return probs / probs.sum(), tokens[: len(probs)]
