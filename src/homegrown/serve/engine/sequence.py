"""A request in the engine: its tokens, how far they are computed, and where their keys are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from homegrown.serve.engine.hashing import PageKey
from homegrown.serve.messages import Request, TokenScore, Usage

if TYPE_CHECKING:
    from homegrown.serve.engine.choice import Choice
    from homegrown.serve.engine.pages import HostPages

Phase = Literal["waiting", "following", "running", "done"]
"""In the queue; behind a running request that computes the same prompt; in the batch; ended."""


class Sequence:
    """One request on its way.

    Its tokens are known up to their end; the keys of the first `computed` of them are in its pages. What is left is
    computed as a prompt up to `prompt_end`, behind it token by token.

    Attributes:
        request: what was asked for.
        order: how many requests came before it.
        choice: how its tokens are chosen.
        longest: tokens, prompt included, that it may have at most.
        tokens: prompt and answer so far.
        computed: tokens whose keys are in `pages`.
        prompt_end: tokens that are computed as a prompt. That is the prompt, and behind a preemption what had been
            answered, except in batch-invariant mode.
        pages: where its keys are, in order.
        keys: names of its first full pages.
        published: pages that have been offered to later prompts.
        host: its keys while it is swapped out.
        drafts: tokens proposed to follow `tokens`.
        leader: whose prompt begins alike and is being computed.
        follows: tokens that it shares with its leader, whole pages of them.
        usage: what it took so far.
        prompt_scores: of the prompt's tokens so far, if they are asked for; `None` once they are told, or never.
        told: whether an output was made.
        elsewhere: its prompt is computed elsewhere, so that no pass here may run it.
    """

    def __init__(self, request: Request, order: int, choice: Choice, longest: int) -> None:
        self.request, self.order, self.choice, self.longest = request, order, choice, longest
        self.phase: Phase = "waiting"
        self.tokens = list(request.prompt)
        self.computed = 0
        self.prompt_end = len(request.prompt)
        self.pages: list[int] = []
        self.keys: list[PageKey] = []
        self.published = 0
        self.host: HostPages | None = None
        self.drafts: list[int] = []
        self.leader: Sequence | None = None
        self.follows = 0
        self.usage = Usage(prompt_tokens=len(request.prompt))
        self.arrived = request.arrived or time.time()
        self.first_pass = 0.0
        self.first_token = 0.0
        self.prompt_scores: list[TokenScore | None] | None = [None] if request.sampling.prompt_logprobs >= 0 else None
        self.told = False
        self.elsewhere = False

    @property
    def id(self) -> str:
        """The request's."""
        return self.request.id

    @property
    def tenant(self) -> str:
        """The request's."""
        return self.request.tenant

    @property
    def priority(self) -> int:
        """The request's."""
        return self.request.priority

    @property
    def left(self) -> int:
        """Tokens of it that are to be computed as a prompt."""
        return max(self.prompt_end - self.computed, 0)

    @property
    def prefilling(self) -> bool:
        """Whether its prompt is not computed to its end."""
        return self.computed < self.prompt_end

    @property
    def answering(self) -> bool:
        """Whether the next pass makes a new token with one row."""
        return not self.prefilling and self.computed == len(self.tokens) - 1

    @property
    def rank(self) -> tuple[int, int]:
        """Who keeps its place: higher priority, then who came earlier; the greatest makes room first."""
        return (-self.priority, self.order)

    def forget(self, invariant: bool) -> None:
        """Its pages are gone: what was computed is to be computed again.

        Args:
            invariant: answered tokens are computed again token by token, as they were.
        """
        self.pages, self.drafts, self.computed = [], [], 0
        if self.prompt_scores is not None:
            self.prompt_scores = [None]
        self.prompt_end = len(self.request.prompt) if invariant else len(self.tokens)

    def started(self) -> bool:
        """A pass with it begins; whether that is its first."""
        if self.first_pass:
            return False
        self.first_pass = time.time()
        self.usage.queue_s = max(self.first_pass - self.arrived, 0.0)
        return True

    def answered(self, tokens: list[int], drafted: int, accepted: int) -> None:
        """New tokens were chosen."""
        now = time.time()
        if not self.first_token:
            self.first_token = now
            self.usage.prefill_s = now - self.first_pass
        self.usage.decode_s = now - self.first_token
        self.tokens.extend(tokens)
        self.usage.completion_tokens += len(tokens)
        self.usage.drafted += drafted
        self.usage.accepted += accepted
