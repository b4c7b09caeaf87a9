"""The dialects: JSON into a `Conversation` or `Completion`, and `Event`s back into JSON or server-sent events."""
