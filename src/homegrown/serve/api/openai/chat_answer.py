"""A chat's complete answers: `chat.completion`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homegrown.serve.api.openai.chat_stream import FINISH, call_id
from homegrown.serve.api.openai.head import Head
from homegrown.serve.api.openai.logprobs import TokenBytes, chat_logprobs
from homegrown.serve.api.openai.usage import Tally
from homegrown.serve.collect import Answer, Call


def encode_answers(
    head: Head,
    answers: Sequence[Answer],
    *,
    reasoning: Sequence[str],
    token_bytes: TokenBytes | None = None,
    legacy: bool = False,
    compute: bool = False,
) -> bytes:
    """The response; arguments as for `ChatEncoder`."""
    tally = Tally(len(answers))
    choices = []
    for index, answer in enumerate(answers):
        tally.add(index, answer.usage, answer.reasoning_tokens)
        choice = {
            "index": index,
            "message": _message(answer, reasoning, legacy),
            "logprobs": chat_logprobs(answer.scores, token_bytes) if token_bytes else None,
            "finish_reason": "function_call" if legacy and answer.reason == "calls" else FINISH[answer.reason],
        }
        if compute:
            choice["compute"] = answer.compute
        choices.append(choice)
    return head.whole(choices, tally.report())


def _message(answer: Answer, reasoning: Sequence[str], legacy: bool) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text if answer.text or not answer.calls else None,
        "refusal": None,
    }
    if answer.reasoning:
        message.update(dict.fromkeys(reasoning, answer.reasoning))
    if answer.calls and legacy:
        message["function_call"] = _function(answer.calls[0])
    elif answer.calls:
        message["tool_calls"] = [
            {"id": call_id(), "type": "function", "function": _function(call)} for call in answer.calls
        ]
    return message


def _function(call: Call) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}
