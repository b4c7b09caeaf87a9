"""A replica of several processes: a model spread over them, or prompts computed apart from answers."""
