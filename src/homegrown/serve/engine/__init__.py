"""The engine: many requests on one model. torch lives here; text, HTTP and JSON do not."""
