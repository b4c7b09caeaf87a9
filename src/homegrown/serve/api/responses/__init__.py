"""OpenAI's Responses API."""

from homegrown.serve.api.responses.routes import routes

__all__ = ["routes"]
