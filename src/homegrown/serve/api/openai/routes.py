"""Where the handlers are found."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.routing import Route

from homegrown.serve.api.openai.chat import ChatCompletions, ReasoningField
from homegrown.serve.api.openai.completions import Completions
from homegrown.serve.api.openai.models import Models
from homegrown.serve.api.openai.timing import ProcessingTime
from homegrown.serve.api.openai.tokenize import Tokenization
from homegrown.serve.service import Service


def routes(service: Service, reasoning: ReasoningField = "reasoning_content") -> list[Route]:
    """The routes of this dialect.

    Args:
        service: answers.
        reasoning: the field of chat answers that has the thinking.
    """
    chat, completions = ChatCompletions(service, reasoning), Completions(service)
    models, tokenization = Models(service), Tokenization(service)
    timed = [Middleware(ProcessingTime)]
    return [
        Route("/v1/chat/completions", chat.answer, methods=["POST"], middleware=timed),
        Route("/v1/completions", completions.answer, methods=["POST"], middleware=timed),
        Route("/v1/models", models.listing),
        Route("/v1/models/{model:path}", models.retrieve),
        Route("/tokenize", tokenization.tokenize, methods=["POST"]),
        Route("/detokenize", tokenization.detokenize, methods=["POST"]),
        Route("/tokenizer_info", tokenization.info),
    ]
