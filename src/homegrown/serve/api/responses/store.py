"""Responses that clients may ask for again, or go on from: kept in memory, for a while, and only so many."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from homegrown.serve.errors import ApiError

Items = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A finished response.

    Attributes:
        tenant: who may ask for it.
        response: its JSON.
        items: JSON of its own input items, without those that it went on from.
        previous: the response that it went on from.
    """

    tenant: str
    response: bytes
    items: bytes
    previous: str | None

    @classmethod
    def of(cls, tenant: str, response: dict[str, Any], items: Items) -> Stored:
        """A response as it is kept."""
        encode = msgspec.json.encode
        previous = response["previous_response_id"]
        return cls(tenant=tenant, response=encode(response), items=encode(items), previous=previous)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.response) + len(self.items)


class Store:
    """Keeps the responses used last.

    Args:
        ttl_s: seconds after its last use that a response is kept.
        max_bytes: of all together; one that is larger is not kept at all.
        clock: seconds, never going back.
    """

    def __init__(
        self, ttl_s: float = 6 * 3600.0, max_bytes: int = 256 << 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s, self._max_bytes, self._clock = ttl_s, max_bytes, clock
        self._kept: OrderedDict[str, tuple[float, Stored]] = OrderedDict()  # the one used longest ago first
        self._bytes = 0

    def put(self, response_id: str, stored: Stored) -> None:
        """Keep a response; others may have to go."""
        self._remove(response_id)
        self._kept[response_id] = (self._clock(), stored)
        self._bytes += stored.size
        self._make_room()

    def get(self, response_id: str, tenant: str, param: str = "response_id") -> Stored:
        """A response of this tenant.

        Raises:
            ApiError: `not_found`, also for those of others.
        """
        self._make_room()
        _, stored = self._kept.get(response_id, (0.0, None))
        if stored is None or stored.tenant != tenant:
            raise not_found(response_id, param)
        self._kept[response_id] = (self._clock(), stored)
        self._kept.move_to_end(response_id)
        return stored

    def delete(self, response_id: str, tenant: str) -> None:
        """Forget a response of this tenant.

        Raises:
            ApiError: `not_found`.
        """
        self.get(response_id, tenant)
        self._remove(response_id)

    def chain(self, response_id: str | None, tenant: str) -> Items:
        """All that was said up to the end of a response: input and output items of each, the first one's first.

        Raises:
            ApiError: `not_found`: it, or one that it went on from, is not kept any more.
        """
        links: list[Stored] = []
        while response_id is not None:
            links.append(self.get(response_id, tenant, "previous_response_id"))
            response_id = links[-1].previous
        decode = msgspec.json.decode
        return [item for link in reversed(links) for item in decode(link.items) + decode(link.response)["output"]]

    def _make_room(self) -> None:
        oldest = self._clock() - self._ttl_s
        while self._kept:
            response_id, (used, _) = next(iter(self._kept.items()))
            if used >= oldest and self._bytes <= self._max_bytes:
                return
            self._remove(response_id)

    def _remove(self, response_id: str) -> None:
        _, stored = self._kept.pop(response_id, (0.0, None))
        self._bytes -= stored.size if stored else 0


def not_found(response_id: str, param: str = "response_id") -> ApiError:
    """The error for a response that is not there, or not for this client."""
    message = f"There is no response {response_id[:64]!r}: it was never stored, was deleted, or has expired."
    return ApiError("not_found", message, param=param)
