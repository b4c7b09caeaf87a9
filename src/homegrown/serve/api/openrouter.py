"""The document by which the OpenRouter marketplace lists a provider's models, in its older flat form and in schema 2.4.

What is not offered is left out, prices among it: there, zero means free.
"""

from __future__ import annotations

from typing import Any

from homegrown.serve.card import ModelCard, Prices

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
             "stop", "seed", "max_tokens", "logit_bias", "logprobs", "top_logprobs")  # fmt: skip
_FEATURES = ("tools", "json_mode", "structured_outputs", "logprobs", "reasoning")
_YES = {"type": "boolean"}


def flat(card: ModelCard) -> dict[str, Any]:
    """Fields of the older form."""
    fields: dict[str, Any] = {
        "context_length": card.context_length,
        "max_output_length": card.max_output,
        "quantization": card.quantization,
        "supported_sampling_parameters": list(_SAMPLING),
        "supported_features": list(_FEATURES),
    }
    if card.prices:
        prices = card.prices
        fields["pricing"] = _known(
            prompt=prices.prompt,
            completion=prices.completion,
            request=prices.request,
            input_cache_read=prices.cached_prompt,
        )
    return fields


def entry(card: ModelCard, ready: bool) -> dict[str, Any]:
    """The model in schema 2.4, with those fields of the older form that have no place in it.

    Args:
        card: what is said of the model.
        ready: whether it takes requests now.
    """
    prices = card.prices or Prices()
    result = {
        **flat(card),
        "schema_version": "2.4",
        "id": card.id,
        "name": card.title,
        "created": card.created,
        **_known(
            hugging_face_id=card.hugging_face_id,
            tokenizer=card.tokenizer,
            description=card.description,
        ),
        "input_modalities": [_input(card, prices)],
        "output_modalities": [_output(card, prices)],
        "is_ready": ready,
    }
    if card.datacenters:
        result["datacenters"] = [{"country_code": code} for code in card.datacenters]
    return result


def _input(card: ModelCard, prices: Prices) -> dict[str, Any]:
    length = {"value": card.context_length, "unit": "token"}
    result: dict[str, Any] = {"type": "text", "supported_inputs": {"max_context_length": length}}
    if pricing := _prices(prompt=prices.prompt, cached_prompt=prices.cached_prompt):
        result["pricing"] = pricing
    return result


def _output(card: ModelCard, prices: Prices) -> dict[str, Any]:
    result: dict[str, Any] = {
        "type": "text",
        "max_length": card.max_output,
        "streaming": True,
        "supported_parameters": _parameters(card),
    }
    if pricing := _prices(completion=prices.completion, internal_reasoning=prices.reasoning):
        result["pricing"] = pricing
    return result


def _parameters(card: ModelCard) -> dict[str, Any]:
    return {
        "temperature": {"type": "range", "min": 0, "max": 2},
        "top_p": {"type": "range", "min": 0, "max": 1},
        "min_p": {"type": "range", "min": 0, "max": 1},
        "frequency_penalty": {"type": "range", "min": -2, "max": 2},
        "presence_penalty": {"type": "range", "min": -2, "max": 2},
        "repetition_penalty": {"type": "range", "min": 0, "max": 2},
        "top_k": {"type": "integer", "min": 0},
        "top_logprobs": {"type": "integer", "min": 0, "max": 20},
        "max_tokens": {"type": "integer", "min": 1, "max": card.max_output},
        "seed": {"type": "integer"},
        "stop": {"type": "array", "max_items": 4},
        **dict.fromkeys(
            ("logit_bias", "logprobs", "tools", "tool_choice", "parallel_tool_calls", "response_format",
             "structured_outputs", "reasoning", "include_reasoning"),
            _YES,
        ),
    }  # fmt: skip


def _prices(**of: str) -> list[dict[str, str]]:
    return [{"type": kind, "unit": "token", "cost_usd": price} for kind, price in _known(**of).items()]


def _known(**texts: str) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}
