"""Lists of items in pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homegrown.serve.api.responses.schema import Items
from homegrown.serve.errors import ApiError


def page(items: Items, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of `items`.

    Args:
        items: in the order in which they came.
        query: `order` (`desc`, the default, or `asc`), `limit` (1 to 100, default 20), `after` (an item's id).

    Raises:
        ApiError: `invalid`: one of these is something else.
    """
    order, limit, after = query.get("order", "desc"), query.get("limit", "20"), query.get("after")
    if order not in ("asc", "desc"):
        raise ApiError("invalid", f"`order` is {order[:32]!r}: it must be 'asc' or 'desc'.", param="order")
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= 100):
        raise ApiError("invalid", f"`limit` is {limit[:32]!r}: it must be a number from 1 to 100.", param="limit")
    ordered = items if order == "asc" else items[::-1]
    start = 0
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise ApiError("invalid", f"`after` is {after[:64]!r}, which is not the id of an item.", param="after")
        start = ids.index(after) + 1
    data = ordered[start : start + int(limit)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + len(data) < len(ordered),
    }
