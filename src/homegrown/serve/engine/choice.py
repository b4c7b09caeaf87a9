"""One request's choosing: its settings, its random numbers, what it has chosen, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from homegrown.generate import SamplingConfig
from homegrown.serve.engine.constrain import Constraint
from homegrown.serve.engine.penalties import Penalties
from homegrown.serve.grammar import Matcher
from homegrown.serve.messages import Finish, Request


class Choice:
    """State of a request from its first token to its last. It survives preemption as it is.

    Args:
        request: its sampling settings are taken as checked.
        vocab_size: the model's; biases and stop ids beyond it mean nothing and are left out.
        ends: ids of the end-of-sequence token or tokens.
        matcher: at the beginning of `request.sampling.grammar`, if and only if it has one.

    Attributes:
        tokens: the answer so far.
        config: the settings that shape its distribution, as `homegrown generate` has them.
        finish: set once it has ended. The longest context is not this object's business.
        error: a sentence for the client, where `finish` is `error`.

    Raises:
        ValueError: a grammar without a matcher, or the other way round.
    """

    def __init__(
        self, request: Request, vocab_size: int, ends: Collection[int], matcher: Matcher | None = None
    ) -> None:
        sampling = request.sampling
        self.request, self.sampling = request, sampling
        self.tokens: list[int] = []
        self.finish: Finish | None = None
        self.error = ""
        # With a grammar its end is the end: behind it nothing is allowed.
        own = () if sampling.ignore_eos and matcher is None else ends
        self._ends = [token for token in {*own, *sampling.stop_ids} if 0 <= token < vocab_size]
        self._penalties = Penalties(sampling, request.prompt) if Penalties.wanted(sampling) else None
        self._constraint = self._constrained(request, matcher)
        biases = {token: bias for token, bias in sampling.logit_bias.items() if 0 <= token < vocab_size}
        self._biased = torch.tensor(list(biases), dtype=torch.int64)
        self._biases = torch.tensor(list(biases.values()), dtype=torch.float32)
        self.config = SamplingConfig(
            temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, min_p=sampling.min_p
        )
        self._generator = torch.Generator().manual_seed(sampling.seed)

    @staticmethod
    def _constrained(request: Request, matcher: Matcher | None) -> Constraint | None:
        grammar = request.sampling.grammar
        if grammar is None and matcher is None:
            return None
        if grammar is None or matcher is None:
            raise ValueError(f"request {request.id}: a grammar and its matcher come together")
        return Constraint(matcher, grammar.after)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, and no random number."""
        return self.sampling.temperature == 0

    @property
    def adjusts(self) -> bool:
        """Whether the next token's logits are changed before it is chosen."""
        return bool(self._penalties or self._constraint or len(self._biased) or self._early)

    @property
    def _early(self) -> bool:
        """Whether it may not end yet."""
        waiting = self._constraint is not None and self._constraint.waiting
        return waiting or len(self.tokens) < self.sampling.min_tokens

    def adjust(self, row: Tensor) -> None:
        """Change the next token's logits [V] in place: penalties, biases, and minus infinity for what may not come.

        A grammar goes before `min_tokens`: where it allows nothing but the end, the answer ends.

        Raises:
            GrammarError: the grammar is too complex to go on.
        """
        if self._penalties:
            self._penalties.apply(row)
        if len(self._biased):
            row[self._biased.to(row.device)] += self._biases.to(row.device, row.dtype)
        if self._constraint is None and not self._early:
            return
        allowed = self._constraint.allowed(len(row)) if self._constraint else torch.ones(len(row), dtype=torch.bool)
        if self._early:
            open_ended = allowed.clone()
            open_ended[self._ends] = False
            allowed = open_ended if open_ended.any() else allowed
        row.masked_fill_(~allowed.to(row.device), -math.inf)

    def point(self) -> float:
        """The request's next random number in [0, 1): one for each token that is drawn."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))

    def commit(self, token: int) -> None:
        """Take the next token.

        Raises:
            GrammarError: the grammar is too complex to go on; the token is not part of the answer then.
        """
        if self._constraint:
            self._constraint.advance(token)
        if self._penalties:
            self._penalties.count(token)
        self.tokens.append(token)
        if token in self._ends:
            self.finish = "stop"
        elif len(self.tokens) >= self.sampling.max_tokens:
            self.finish = "length"

    def fail(self, error: str) -> None:
        """End it because of what went wrong."""
        self.finish, self.error = "error", error
