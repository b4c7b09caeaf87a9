"""What the OpenRouter marketplace reads of a provider's list of models, as types: unknown fields are errors.

Written from its provider documentation, schema version 2.4, with the fields of the older flat form that remain.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Price = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]*)(\.[0-9]+)?$")]
Strict = {"forbid_unknown_fields": True, "kw_only": True}


class Amount(msgspec.Struct, **Strict):
    value: Annotated[int, Meta(gt=0)]
    unit: Literal["token"]


class PromptPrice(msgspec.Struct, **Strict):
    type: Literal["prompt", "cached_prompt", "cache_write"]
    unit: Literal["token"]
    cost_usd: Price


class AnswerPrice(msgspec.Struct, **Strict):
    type: Literal["completion", "internal_reasoning"]
    unit: Literal["token"]
    cost_usd: Price


class SupportedInputs(msgspec.Struct, **Strict):
    max_context_length: Amount
    max_prompt_length: Amount | msgspec.UnsetType = msgspec.UNSET


class InputModality(msgspec.Struct, **Strict):
    type: Literal["text"]
    supported_inputs: SupportedInputs
    pricing: list[PromptPrice] | msgspec.UnsetType = msgspec.UNSET


class Range(msgspec.Struct, tag="range", tag_field="type", **Strict):
    min: float
    max: float


class Integer(msgspec.Struct, tag="integer", tag_field="type", **Strict):
    min: int | msgspec.UnsetType = msgspec.UNSET
    max: int | msgspec.UnsetType = msgspec.UNSET


class Array(msgspec.Struct, tag="array", tag_field="type", **Strict):
    max_items: int


class Boolean(msgspec.Struct, tag="boolean", tag_field="type", **Strict):
    pass


class OutputModality(msgspec.Struct, **Strict):
    type: Literal["text"]
    max_length: Annotated[int, Meta(gt=0)]
    streaming: bool
    supported_parameters: dict[str, Range | Integer | Array | Boolean]
    pricing: list[AnswerPrice] | msgspec.UnsetType = msgspec.UNSET


class FlatPricing(msgspec.Struct, **Strict):
    prompt: Price | msgspec.UnsetType = msgspec.UNSET
    completion: Price | msgspec.UnsetType = msgspec.UNSET
    request: Price | msgspec.UnsetType = msgspec.UNSET
    input_cache_read: Price | msgspec.UnsetType = msgspec.UNSET


class Place(msgspec.Struct, **Strict):
    country_code: Annotated[str, Meta(pattern="^[A-Z]{2}$")]


class Entry(msgspec.Struct, **Strict):
    schema_version: Literal["2.4"]
    id: Annotated[str, Meta(min_length=1)]
    name: Annotated[str, Meta(min_length=1)]
    created: int
    quantization: Literal["int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32"] | None
    input_modalities: Annotated[list[InputModality], Meta(min_length=1)]
    output_modalities: Annotated[list[OutputModality], Meta(min_length=1)]
    is_ready: bool
    context_length: Annotated[int, Meta(gt=0)]
    max_output_length: Annotated[int, Meta(gt=0)]
    supported_sampling_parameters: list[str]
    supported_features: list[Literal["tools", "json_mode", "structured_outputs", "logprobs", "web_search", "reasoning"]]
    pricing: FlatPricing | msgspec.UnsetType = msgspec.UNSET
    hugging_face_id: str | msgspec.UnsetType = msgspec.UNSET
    tokenizer: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    datacenters: list[Place] | msgspec.UnsetType = msgspec.UNSET


class Document(msgspec.Struct, **Strict):
    data: Annotated[list[Entry], Meta(min_length=1)]
