"""The list of models, as its several readers see it."""

import msgspec
import openai
import pytest
from anthropic import Anthropic

from homegrown.serve.card import Prices

from . import openrouter_schema
from .serving import build, client, priced, says

FULL = priced(
    description="A model.",
    quantization="bf16",
    hugging_face_id="lab/tiny",
    tokenizer="Other",
    datacenters=("DE", "FI"),
    prices=Prices(prompt="0.0000003", completion="0.0000012", cached_prompt="0.00000003", reasoning="0.000002"),
)


def document(card, backend=None):
    with client(build(backend or says("x"), card)) as sdk:
        response = sdk._client.get("models", params={"format": "openrouter"})
    return response.content


def test_openai_reads_it():
    with client(build(says("x"))) as sdk:
        assert [model.id for model in sdk.models.list()] == ["tiny", "anthropic/tiny"]
        model = sdk.models.retrieve("anthropic/tiny")
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.models.retrieve("a/b")
    assert (model.id, model.object, model.owned_by, model.created) == (
        "anthropic/tiny", "model", "homegrown", 1_700_000_000,
    )  # fmt: skip
    assert model.max_model_len == 2048
    assert caught.value.code == "model_not_found"


def test_anthropic_reads_it():
    with client(build(says("x"))) as sdk, Anthropic(base_url=str(sdk.base_url)[:-4], api_key="x") as other:
        page = other.models.list(limit=1000)
        model = other.models.retrieve("anthropic/tiny")
    assert [one.id for one in page.data] == ["tiny", "anthropic/tiny"]
    assert not page.has_more
    assert (page.first_id, page.last_id) == ("tiny", "anthropic/tiny")
    assert (model.type, model.display_name, model.created_at.year) == ("model", "Tiny", 2023)
    assert (model.max_input_tokens, model.max_tokens, model.lifecycle) == (2048, 512, "active")
    assert model.capabilities.thinking.types.adaptive.supported
    assert not model.capabilities.image_input.supported
    type(model).model_validate_json(model.model_dump_json(), strict=False)


def test_it_is_served_without_redirects():
    with client(build(says("x"))) as sdk:
        response = sdk._client.get("models", params={"limit": 1000}, follow_redirects=False)
    assert response.status_code == 200


def test_the_marketplaces_document():
    (entry,) = msgspec.json.decode(document(FULL), type=openrouter_schema.Document).data
    assert entry.input_modalities[0].supported_inputs.max_context_length.value == 2048
    assert [(price.type, price.cost_usd) for price in entry.input_modalities[0].pricing] == [
        ("prompt", "0.0000003"), ("cached_prompt", "0.00000003"),
    ]  # fmt: skip
    assert [(price.type, price.cost_usd) for price in entry.output_modalities[0].pricing] == [
        ("completion", "0.0000012"), ("internal_reasoning", "0.000002"),
    ]  # fmt: skip
    assert entry.pricing.prompt == "0.0000003"
    assert entry.is_ready
    assert [place.country_code for place in entry.datacenters] == ["DE", "FI"]


def test_what_is_not_sold_has_no_price():
    data = document(priced())
    (entry,) = msgspec.json.decode(data, type=openrouter_schema.Document).data
    assert entry.pricing is msgspec.UNSET
    assert b"cost_usd" not in data


def test_a_server_that_is_not_ready_says_so():
    backend = says("x")
    backend.state = "starting"
    (entry,) = msgspec.json.decode(document(FULL, backend), type=openrouter_schema.Document).data
    assert not entry.is_ready
