"""Logs: a line per event on stderr, as JSON or for people. No prompt, no key and no query string is ever in one, unless
prompts were asked for."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

from homegrown.serve.http.exchange import Exchange

logger = logging.getLogger("homegrown.serve")

LONGEST_PROMPT = 100_000
"""Characters of a body in a line."""


class JsonLines(logging.Formatter):
    """Every record as one line of JSON: time, level, message, and what else it has in `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["stack"] = stack(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """Every record as a line for people: time, message, and `name=value` of what has a value."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = " ".join(f"{key}={_plain(value)}" for key, value in getattr(record, "fields", {}).items() if value)
        line = f"{time} {record.getMessage()} {fields}".rstrip()
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + "\n".join(stack(record.exc_info[1]))
        return line


class _Stderr(logging.Handler):
    """Writes to stderr, whatever that is by now: a program that embeds the server may have put another in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _plain(value: object) -> str:
    """A value that cannot break the line or look like the next field."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def set_up(form: Literal["json", "text", "off"]) -> None:
    """Send the server's log, and warnings of what it is built on, to stderr."""
    handler = _Stderr()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name, level in (("homegrown.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        target = logging.getLogger(name)
        target.handlers[:] = [handler]
        target.propagate = False
        target.setLevel(logging.ERROR if form == "off" else level)


def stack(error: BaseException) -> list[str]:
    """Where an error came from and of what type it is, but not its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames] + [type(error).__name__]


def log_exchange(exchange: Exchange) -> None:
    """The access log's line."""
    usage = exchange.usage
    fields: dict[str, Any] = {
        "id": exchange.id,
        "method": exchange.method,
        "path": exchange.path,
        "status": exchange.status,
        "seconds": round(exchange.elapsed, 4),
        "client": exchange.client.name,
        "bytes": exchange.sent,
    }
    if exchange.session:
        fields["session"] = exchange.session
    if exchange.gone:
        fields["gone"] = True
    if exchange.answers:
        fields |= {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "drafted": usage.drafted,
            "accepted": usage.accepted,
            "first_token_s": None if exchange.first_token_s is None else round(exchange.first_token_s, 4),
            "queue_s": round(usage.queue_s, 4),
            "finish": exchange.finish,
        }
    if exchange.prompt:
        fields["prompt"] = exchange.prompt[:LONGEST_PROMPT]
    logger.info("request", extra={"fields": fields})
