"""`POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, in the shapes of vLLM's.

Evaluation harnesses use them as a remote tokenizer.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from homegrown.serve.api import body
from homegrown.serve.api.openai.chat import ChatBody, conversation
from homegrown.serve.api.openai.fields import Fields
from homegrown.serve.errors import ApiError
from homegrown.serve.service import Service
from homegrown.tokenizer import CHAT_TEMPLATE


class TokenizeText(Fields, kw_only=True):
    """A text to be tokenized, or any other body that has no `prompt`."""

    prompt: str | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class Tokens(Fields, kw_only=True):
    """Tokens to be made text."""

    tokens: list[int]


class Tokenization:
    """The routes.

    Args:
        service: has the tokenizer.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        """The tokens of a text, or of a chat as a request of the same body would begin."""
        service, given = self._service, await body.read(request, TokenizeText)
        if given.prompt is not None:
            bos = given.add_special_tokens is not False
            tokens = await service.tokenize(given.prompt, bos=bos)
        elif given.add_generation_prompt is False:
            message = "Field `add_generation_prompt`: must be true: every chat is tokenized as one to be answered."
            raise ApiError("invalid", message, param="add_generation_prompt")
        else:
            chat = await body.read(request, ChatBody)
            tokens = await service.tokenize_chat(conversation(request, chat, service))
        result: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": service.card.context_length,
            "tokens": tokens,
            "token_strs": None,
        }
        if given.return_token_strs:
            result["token_strs"] = [service.token_bytes(token).decode("utf-8", "replace") for token in tokens]
        return JSONResponse(result)

    async def detokenize(self, request: Request) -> Response:
        """The text of tokens."""
        given = await body.read(request, Tokens)
        return JSONResponse({"prompt": self._service.detokenize(given.tokens)})

    async def info(self, request: Request) -> Response:
        """What a client needs that renders chats itself and has the server tokenize them."""
        tokenizer = self._service.tokenizer
        names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
        return JSONResponse(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": self._service.card.context_length,
                "vocab_size": tokenizer.vocab_size,
                "add_bos_token": True,
                "chat_template": tokenizer.chat_template or CHAT_TEMPLATE,
                **{name: tokenizer.decode([token]) for name, token in names.items()},
                **{f"{name}_id": token for name, token in names.items()},
            }
        )
