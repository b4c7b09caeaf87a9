"""The supervisor's record: a line of JSON and a line on the console for each thing that happened or was decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Journal:
    """Appends to a file. A full disk must not end the supervisor, which is there to outlast it: then the console
    alone shows the line, and says why."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self._say = say

    def write(self, event: str, text: str, **facts: Any) -> None:
        """Note an event, in a sentence and as facts."""
        now = datetime.now(UTC)
        self.show(event, text)
        line = {"time": now.isoformat(timespec="milliseconds"), "event": event, "text": text, **facts}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._print(f"           {self.path} could not be written: {error.strerror}")

    def show(self, event: str, text: str) -> None:
        """Put a line on the console alone."""
        self._print(f"{datetime.now():%H:%M:%S}  {event:<11} {text}")

    def _print(self, line: str) -> None:
        with suppress(OSError):  # a console may be a file on a full disk, too
            self._say(line)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The events in a file, oldest first; a line torn by a full disk or a crash is passed over."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events
