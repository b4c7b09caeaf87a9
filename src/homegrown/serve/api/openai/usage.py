"""What a request took, in OpenAI's words."""

from __future__ import annotations

from typing import Any

from homegrown.serve.messages import Usage


class Tally:
    """Sums the usage of a request's answers.

    Args:
        each: answers a prompt: its tokens are counted once for all of them.
    """

    def __init__(self, each: int = 1) -> None:
        self._each = each
        self._prompt = self._completion = self._cached = self._reasoning = self._accepted = self._rejected = 0

    def add(self, answer: int, usage: Usage, reasoning_tokens: int) -> None:
        """Count a complete answer; `answer` is its number."""
        if answer % self._each == 0:
            self._prompt += usage.prompt_tokens
            self._cached += usage.cached_tokens
        self._completion += usage.completion_tokens
        self._reasoning += reasoning_tokens
        self._accepted += usage.accepted
        self._rejected += usage.drafted - usage.accepted

    def report(self) -> dict[str, Any]:
        """The object `usage`."""
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "total_tokens": self._prompt + self._completion,
            "prompt_tokens_details": {"cached_tokens": self._cached},
            "completion_tokens_details": {
                "reasoning_tokens": self._reasoning,
                "accepted_prediction_tokens": self._accepted,
                "rejected_prediction_tokens": self._rejected,
            },
        }
