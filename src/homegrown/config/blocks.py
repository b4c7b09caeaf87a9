"""How large tensors are cut along their rows, whoever holds them. Imports no torch."""

from __future__ import annotations

TABLE_BLOCKS = 64
"""Fewest blocks that a table's rows are cut into (if it has as many rows)."""
MOST_BLOCKS = 4096
BLOCK_NUMBERS = 1 << 22
"""Numbers a block aims at."""


def row_blocks(rows: int, width: int, least: int = 1) -> list[int]:
    """Borders 0 = b_0 < b_1 < ... = rows of the blocks that rows of `width` numbers are cut into.

    A function of the table's size alone, so that whatever is kept block by block fits any layout.
    """
    count = min(rows, max(least, min(MOST_BLOCKS, -(-rows * width // BLOCK_NUMBERS))))
    return [rows * block // count for block in range(count + 1)]
