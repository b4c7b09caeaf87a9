"""Tables of runs alike, written as columns and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from homegrown.config import ConfigError, overlay


def spread(table: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Each row as a run of its own: what all share, and the row's cells laid over it.

    Columns name keys, dotted where they lie deeper ("inputs.layout.tp"); an empty text leaves its key out.

    Raises:
        ConfigError: there are no columns or rows, no ids, or a row is of another length.
    """
    columns, rows = table.get("columns"), table.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list) or "id" not in columns:
        raise ConfigError(f"{where}: a [[table]] needs `columns`, one of them 'id', and `rows`")
    shared = {key: value for key, value in table.items() if key not in ("columns", "rows")}
    for row in rows:
        if not isinstance(row, list) or len(row) != len(columns):
            raise ConfigError(f"{where}: the row {row!r} must have {len(columns)} cells, one for each column")
        run = shared
        for column, cell in zip(columns, row, strict=True):
            if column == "id" and shared.get("id"):
                cell = f"{shared['id']}-{cell}"
            if cell != "":
                run = overlay(run, _nested(str(column).split("."), cell))
        yield run


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if path[1:] else value}
