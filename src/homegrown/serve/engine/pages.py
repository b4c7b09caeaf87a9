"""Who holds which page of the key cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.serve.engine.buffers import HostPages, Kind, PageBuffers, page_bytes

__all__ = ["HostPages", "PagePool", "PoolError", "page_bytes"]


class PoolError(RuntimeError):
    """The books do not add up: a page is given back twice, or used without being held."""


class PagePool:
    """Pages and the references to them.

    A page is taken by `allocate` with one reference; `share` adds references, `free` takes them away, and a page
    without any is free. Whoever writes to a page must be the only one that holds it: a page is shared only when it is
    full, and full pages are not written.

    Args:
        config: the model.
        pages: how many there are to take.
        page_size: positions in a page.
        device, dtype: of the keys.
        drafts: keep what the draft block needs, if the model has one.

    Attributes:
        buffers: the pages' memory.

    Raises:
        ValueError: no page, or pages without room.
    """

    def __init__(
        self,
        config: ModelConfig,
        pages: int,
        page_size: int,
        device: torch.device | str,
        dtype: torch.dtype,
        drafts: bool = True,
    ) -> None:
        for name, value in (("pages", pages), ("page_size", page_size)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        self.pages, self.page_size = pages, page_size
        self.buffers = PageBuffers(config, pages, page_size, device, dtype, drafts)
        self._references = [0] * (pages + 1)
        # Taken from the end: pages used last are likely still in a cache of the processor.
        self._free = list(range(pages, 0, -1))

    @property
    def drafts(self) -> bool:
        """Whether the draft block's rows are kept."""
        return self.buffers.drafts

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def references(self, page: int) -> int:
        """How many hold a page."""
        return self._references[page]

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages with one reference each; `None`, and nothing is taken, if fewer are free."""
        if count > len(self._free):
            return None
        keep = len(self._free) - count
        taken = self._free[keep:]
        del self._free[keep:]
        for page in taken:
            self._references[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """Hold pages that somebody holds already.

        Raises:
            PoolError: nobody holds one of them.
        """
        for page in pages:
            self._require_held(page)
            self._references[page] += 1

    def free(self, pages: Iterable[int]) -> None:
        """Give back one reference to each page.

        Raises:
            PoolError: nobody holds one of them.
        """
        for page in pages:
            self._require_held(page)
            self._references[page] -= 1
            if not self._references[page]:
                self._free.append(page)

    def _require_held(self, page: int) -> None:
        if not (0 < page <= self.pages and self._references[page]):
            raise PoolError(f"page {page} is not held by anyone; pages 1 to {self.pages} can be, once allocated")

    def save(self, pages: Sequence[int]) -> HostPages:
        """Copy pages to the host's memory; who holds them does not change."""
        return self.buffers.save(pages)

    def restore(self, host: HostPages, pages: Sequence[int]) -> None:
        """Copy saved pages into as many that were just allocated."""
        self.buffers.restore(host, pages)

    def write(self, kind: Kind, slot: int, cells: Sequence[int], rows: Tensor) -> None:
        """Write keys that were computed elsewhere, [n, W], to cells of one sequence's own pages."""
        self.buffers.write(kind, slot, cells, rows)

    def write_states(self, pages: Sequence[int], rows: Tensor) -> None:
        """The same for the states behind pages' newest tokens, [n, H]; raises `ValueError` where none are kept."""
        self.buffers.write_states(pages, rows)

    def clear(self, pages: Sequence[int]) -> None:
        """Set pages to zero: for those of a sequence whose numbers are no longer finite, which another sequence's zero
        weights would not mask."""
        self.buffers.clear(pages)

    def check(self, holders: Iterable[Iterable[int]]) -> None:
        """Verify the books.

        Args:
            holders: the pages that each holder holds: every sequence, and the prefix cache.

        Raises:
            PoolError: a count differs from the number of holders, or a page is both free and held, or neither.
        """
        held = Counter(page for pages in holders for page in pages)
        free = Counter(self._free)
        for page in range(1, self.pages + 1):
            count = self._references[page]
            if count != held[page]:
                raise PoolError(f"page {page} has {count} references but {held[page]} holders")
            if free[page] != (count == 0):
                raise PoolError(f"page {page} has {count} references and stands {free[page]} times among the free ones")
        strangers = [page for page in (*held, *free) if not 0 < page <= self.pages]
        if strangers:
            raise PoolError(f"page {strangers[0]} is held or free, but there are only pages 1 to {self.pages}")
