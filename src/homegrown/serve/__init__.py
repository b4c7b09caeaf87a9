"""Serving: an engine that runs many requests at once, one event stream, and the HTTP APIs that clients speak."""
