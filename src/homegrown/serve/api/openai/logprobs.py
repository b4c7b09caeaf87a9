"""Log probabilities in the two forms that OpenAI has: a list of objects for chats, parallel lists for completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from homegrown.serve.events import Scored
from homegrown.serve.messages import TokenScore

TokenBytes = Callable[[int], bytes]

UNLIKELY = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def chat_logprobs(tokens: Sequence[Scored], token_bytes: TokenBytes) -> dict[str, Any]:
    """The object `logprobs` of a chat's choice."""
    return {"content": [_chat_token(token, token_bytes) for token in tokens], "refusal": None}


def _chat_token(scored: Scored, token_bytes: TokenBytes) -> dict[str, Any]:
    score = scored.score
    return {
        **_chat_entry(scored.bytes, UNLIKELY if score is None else score.logprob),
        "top_logprobs": [_chat_entry(token_bytes(token), logprob) for token, logprob in score.top] if score else [],
    }


def _chat_entry(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, UNLIKELY), "bytes": list(data)}


class CompletionLogprobs:
    """The object `logprobs` of a completion's choice, which grows as tokens come.

    Args:
        token_bytes: the bytes of a token.
        before: characters of tokens before the text, which are scored but not part of it.
    """

    def __init__(self, token_bytes: TokenBytes, before: int = 0) -> None:
        self._token_bytes = token_bytes
        self._offset = -before

    def take(self, tokens: Sequence[Scored]) -> dict[str, Any]:
        """The lists for the next tokens of the text, the prompt's among them if it is part of it.

        `text_offset` is the number of characters that began before the token.
        """
        result: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for scored in tokens:
            score = scored.score
            result["tokens"].append(_name(scored.bytes))
            result["token_logprobs"].append(None if score is None else max(score.logprob, UNLIKELY))
            result["top_logprobs"].append(None if score is None else self._top(scored.bytes, score))
            result["text_offset"].append(max(self._offset, 0))
            self._offset += sum(byte & 0xC0 != 0x80 for byte in scored.bytes)  # characters begin with other bytes
        return result

    def _top(self, own: bytes, score: TokenScore) -> dict[str, float]:
        """By name, likeliest first; the token itself is always among them, as readers of this form expect."""
        top: dict[str, float] = {}
        for token, logprob in score.top:
            top.setdefault(_name(self._token_bytes(token)), max(logprob, UNLIKELY))
        top.setdefault(_name(own), max(score.logprob, UNLIKELY))
        return top


def _name(data: bytes) -> str:
    """A token by its text; by its bytes, as OpenAI has it, where they are part of a character: names stay distinct."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
