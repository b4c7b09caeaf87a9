"""OpenAI's dialect: chats, plain completions, models, and the tokenizer beside them."""

from homegrown.serve.api.openai.chat import ReasoningField
from homegrown.serve.api.openai.routes import routes

__all__ = ["ReasoningField", "routes"]
