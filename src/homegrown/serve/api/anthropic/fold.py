"""The message that a client puts together from a stream's events, for clients that want it whole."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from homegrown.serve.api.anthropic.encode import Wire


class Fold:
    """Puts a message together, as clients do: whole and streamed answers cannot differ.

    Attributes:
        message: complete behind `message_stop`, for `msgspec.json.encode`.
    """

    def __init__(self) -> None:
        self.message: Wire = {}
        self._pieces: dict[str, list[str]] = {}

    def add(self, wires: Iterable[Wire]) -> None:
        """Take the next events."""
        for wire in wires:
            match wire["type"]:
                case "message_start":
                    self.message = {**wire["message"], "content": []}
                case "content_block_start":
                    self.message["content"].append(dict(wire["content_block"]))
                case "content_block_delta":
                    (field,) = wire["delta"].keys() - {"type"}
                    self._pieces.setdefault(field, []).append(wire["delta"][field])
                case "content_block_stop":
                    self._complete(self.message["content"][-1])
                case "message_delta":
                    self.message |= {**wire["delta"], "usage": wire["usage"]}

    def _complete(self, block: Wire) -> None:
        for field, pieces in self._pieces.items():
            text = "".join(pieces)
            if field == "partial_json":
                block["input"] = msgspec.Raw(text.encode())  # JSON as it is: nobody here looks into it
            else:
                block[field] = text
        self._pieces.clear()
