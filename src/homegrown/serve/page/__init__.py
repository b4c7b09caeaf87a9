"""The chat page: static files that a browser runs as they are, and the routes that hand them out."""

from homegrown.serve.page.routes import routes

__all__ = ["routes"]
