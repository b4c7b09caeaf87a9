"""Anthropic's Messages API."""

from homegrown.serve.api.anthropic.routes import routes

__all__ = ["routes"]
