"""What a response says about itself before it has said anything."""

from __future__ import annotations

from typing import Any

from homegrown.serve.api.responses import schema
from homegrown.serve.messages import Sampling

Wire = dict[str, Any]


def opening(body: schema.CreateResponse, response_id: str, created_at: int, sampling: Sampling) -> Wire:
    """A response in progress: the request's settings, as they took effect, and no output yet."""
    reasoning, text = body.reasoning, body.text
    summary = reasoning.summary or reasoning.generate_summary if reasoning else None
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": bool(body.background),
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": summary},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": sampling.temperature,
        "text": {"format": _format(text), "verbosity": (text.verbosity if text else None) or "medium"},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _format(text: schema.TextConfig | None) -> Wire:
    if text is None or text.format is None:
        return {"type": "text"}
    given = text.format
    fields = {"type": given.type, "name": given.name, "schema": given.schema, "strict": given.strict}
    return {name: value for name, value in fields.items() if value is not None}
