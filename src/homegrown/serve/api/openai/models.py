"""`GET /v1/models`: one document for clients of several APIs.

Every entry has the fields of OpenAI's `Model` and Anthropic's `ModelInfo`, and those that other servers and
marketplaces have made usual. Some agents keep only ids that begin in a certain way; the card's aliases are listed for
them, and requests may use any of the ids.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from homegrown.serve.api import openrouter
from homegrown.serve.card import ModelCard
from homegrown.serve.errors import ApiError
from homegrown.serve.service import Service

_NO = {"supported": False}
_YES = {"supported": True}
_CAPABILITIES: dict[str, Any] = {
    "batch": _NO,
    "citations": _NO,
    "code_execution": _NO,
    "context_management": _NO,
    "effort": {**dict.fromkeys(("low", "medium", "high", "xhigh", "max"), _NO), **_NO},
    "image_input": _NO,
    "pdf_input": _NO,
    "server_tools": {"code_execution": _NO, "web_search": _NO, **_NO},
    "structured_outputs": _YES,
    "thinking": {"types": dict.fromkeys(("adaptive", "enabled", "disabled", "between_tools"), _YES), **_YES},
}
"""As Anthropic lists them; every key must be there. The thinking types are those that are not refused."""


class Models:
    """The routes.

    Args:
        service: has the card of the model.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def listing(self, request: Request) -> Response:
        """All models, under all their ids; `?format=openrouter`: the document that the marketplace reads."""
        card, wanted = self._service.card, request.query_params.get("format")
        if wanted == "openrouter":
            ready = self._service.backend.state == "ready"
            return JSONResponse({"data": [openrouter.entry(card, ready)]})
        if wanted is not None:
            raise ApiError("invalid", "Parameter `format`: must be openrouter or absent.", param="format")
        data = [entry(card, one) for one in card.ids]
        ends = {"first_id": card.ids[0], "last_id": card.ids[-1], "has_more": False}
        return JSONResponse({"object": "list", "data": data, **ends})

    async def retrieve(self, request: Request) -> Response:
        """One of them; ids may contain slashes.

        Raises:
            ApiError: `not_found`.
        """
        wanted = request.path_params["model"]
        self._service.card.check(wanted)
        return JSONResponse(entry(self._service.card, wanted))


def entry(card: ModelCard, name: str) -> dict[str, Any]:
    """The model under one of its ids."""
    created = datetime.fromtimestamp(card.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "id": name,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "root": card.id,
        "type": "model",
        "display_name": card.title,
        "created_at": created,
        "lifecycle": "active",
        "max_input_tokens": card.context_length,
        "max_tokens": card.max_output,
        "capabilities": _CAPABILITIES,
        "max_model_len": card.context_length,
        **openrouter.flat(card),
    }
