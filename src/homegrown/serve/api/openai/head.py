"""What every response and every chunk of a stream begins with."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

import msgspec

from homegrown import __version__
from homegrown.serve.service import Service


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Constant fields of one answer to a request; `object` is its type and `id` its random name."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, prefix: str, kind: str, model: str, fingerprint: str) -> Head:
        """A head with an id of its own, such as `chatcmpl-...`."""
        return cls(
            id=f"{prefix}-{secrets.token_hex(12)}",
            object=kind,
            created=int(time.time()),
            model=model,
            system_fingerprint=fingerprint,
        )

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> bytes:
        """A complete response."""
        return (
            self.open()
            + b',"choices":'
            + msgspec.json.encode(choices)
            + b',"usage":'
            + msgspec.json.encode(usage)
            + b"}"
        )

    def open(self) -> bytes:
        """The beginning of an object, so that constant text is encoded once for all chunks of a stream."""
        return msgspec.json.encode(self)[:-1]


def fingerprint(service: Service) -> str:
    """Changes with what a seeded request's tokens depend on, as far as it can be seen from here: the model's id, its
    tokenizer and the version of this software."""
    source = f"{service.card.id}\n{service.card.created}\n{service.tokenizer.digest}\n{__version__}"
    return f"fp_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
