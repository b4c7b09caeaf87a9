"""Keys of prompts' beginnings, kept for prompts to come.

The contract:

1. `match` only reads. What it found may be evicted by the next `allocate` or `evict`, so `lock` it at once.
2. Whoever locks a page, or whose page was inserted, holds it, and all pages before it in the text, until `release`.
3. A page that only the cache holds may be evicted; those used least recently go first, a text's end before its start.
4. `insert` takes full pages only. Of two equal pages it keeps the older, and gives that to both holders.
5. `evict(0)` and `release([])` do nothing; `check` verifies the books at any time.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from homegrown.serve.engine.hashing import PageKey, page_keys
from homegrown.serve.engine.pages import PagePool, PoolError

__all__ = ["PageKey", "PrefixCache", "page_keys"]


@dataclass(eq=False)
class _Node:
    """A cached page.

    Attributes:
        key: its name.
        parent: the page before it in the text, `None` for a first one.
        children: cached pages that come next in some text.
        used: when it was last let go of, as a running number.
    """

    key: PageKey
    page: int
    parent: _Node | None
    children: int = 0
    used: int = 0


class PrefixCache:
    """A tree of full pages; one reference of each is the cache's.

    Args:
        pool: whose pages these are.
        enabled: a disabled cache matches and keeps nothing, and otherwise works the same.
    """

    def __init__(self, pool: PagePool, enabled: bool = True) -> None:
        self._pool, self._enabled = pool, enabled
        self._nodes: dict[bytes, _Node] = {}
        self._by_page: dict[int, _Node] = {}
        self._unused = 0
        self._clock = 0
        # (used, page) of leaves that nobody used when they were put here; what has changed since is skipped.
        self._leaves: list[tuple[int, int]] = []

    @property
    def cached(self) -> int:
        """Pages in the cache, used or not."""
        return len(self._nodes)

    @property
    def available(self) -> int:
        """Pages that `allocate` can give: the free ones and the cached ones that nobody uses."""
        return self._pool.free_pages + self._unused

    def pages(self) -> list[int]:
        """The pages that the cache holds, for `PagePool.check`."""
        return list(self._by_page)

    def match(self, keys: Sequence[PageKey], limit: int, multiple: int = 1) -> list[int]:
        """The pages of the longest cached beginning of a text.

        Args:
            keys: the text's (`page_keys`).
            limit: tokens at most: one fewer than the prompt has, since something must be computed.
            multiple: the number of tokens is a multiple of this.
        """
        size = self._pool.page_size
        found: list[_Node] = []
        for key in keys[: limit // size]:
            node = self._nodes.get(key.digest)
            if node is None or not _same(node, key, found[-1] if found else None):
                break
            found.append(node)
        count = len(found)
        while count * size % multiple:
            count -= 1
        return [node.page for node in found[:count]]

    def lock(self, pages: Sequence[int]) -> None:
        """Hold matched pages."""
        for page in pages:
            self._unused -= page in self._by_page and self._pool.references(page) == 1
        self._pool.share(pages)

    def release(self, pages: Sequence[int]) -> None:
        """Give a sequence's pages back, all of them: cached ones stay until room is needed.

        Raises:
            PoolError: nobody holds one of them.
        """
        self._clock += 1
        self._pool.free(pages)
        for page in pages:
            self._let_go(page)

    def _let_go(self, page: int) -> None:
        node = self._by_page.get(page)
        if node is not None and self._pool.references(page) == 1:
            self._unused += 1
            node.used = self._clock
            if not node.children:
                self._push(node)

    def _push(self, node: _Node) -> None:
        heapq.heappush(self._leaves, (node.used, node.page))
        if len(self._leaves) > 2 * len(self._nodes) + 64:
            # Mostly outdated: without evictions nothing else takes them away.
            self._leaves = [(node.used, node.page) for node in self._nodes.values() if self._evictable(node)]
            heapq.heapify(self._leaves)

    def _evictable(self, node: _Node) -> bool:
        return not node.children and self._pool.references(node.page) == 1

    def insert(self, keys: Sequence[PageKey], pages: Sequence[int], start: int = 0) -> list[int]:
        """Keep a sequence's full pages for others.

        Args:
            keys: one for each full page.
            pages: the sequence's, in order; further ones than there are keys are left alone.
            start: pages before this one have been inserted already.

        Returns:
            The pages that the sequence holds from now on: where an equal page was there already, that one. The
            sequence's own is then given back.
        """
        kept = list(pages)
        if not self._enabled:
            return kept
        parent = self._nodes.get(keys[start - 1].digest) if 0 < start <= len(keys) else None
        if parent is None or parent.page != kept[start - 1]:
            parent, start = None, 0
        for number in range(start, len(keys)):
            node = self._nodes.get(keys[number].digest)
            if node is None:
                node = self._add(keys[number], kept[number], parent)
            elif not _same(node, keys[number], parent):
                break
            elif node.page != kept[number]:
                self.lock([node.page])
                self._pool.free([kept[number]])
                kept[number] = node.page
            parent = node
        return kept

    def _add(self, key: PageKey, page: int, parent: _Node | None) -> _Node:
        node = _Node(key, page, parent)
        self._pool.share([page])
        self._nodes[key.digest] = self._by_page[page] = node
        if parent is not None:
            parent.children += 1
        return node

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages for a sequence, evicting unused cached ones as needed; `None`, and nothing is taken or evicted,
        if there are not enough."""
        if count > self.available:
            return None
        self.evict(count - self._pool.free_pages)
        return self._pool.allocate(count)

    def evict(self, count: int) -> int:
        """Drop `count` unused pages, those used least recently first; how many were dropped."""
        dropped = 0
        while dropped < count and self._leaves:
            used, page = heapq.heappop(self._leaves)
            node = self._by_page.get(page)
            if node is not None and node.used == used and self._evictable(node):
                self._drop(node)
                dropped += 1
        return dropped

    def _drop(self, node: _Node) -> None:
        del self._nodes[node.key.digest], self._by_page[node.page]
        self._pool.free([node.page])
        self._unused -= 1
        parent = node.parent
        if parent is not None:
            parent.children -= 1
            if self._evictable(parent):
                self._push(parent)

    def clear(self) -> int:
        """Drop every unused page; how many there were."""
        return self.evict(self._unused)

    def check(self) -> None:
        """Verify the tree.

        Raises:
            PoolError: a page is in use while one before it in its text is not, a count is wrong, or an unused leaf
                could not be evicted.
        """
        children = dict.fromkeys(self._by_page, 0)
        waiting = set(self._leaves)
        unused = 0
        for node in self._nodes.values():
            count = self._pool.references(node.page)
            unused += count == 1
            if node.parent is not None:
                if self._by_page.get(node.parent.page) is not node.parent:
                    raise PoolError(f"cached page {node.page} follows page {node.parent.page}, which is not cached")
                children[node.parent.page] += 1
                if count > 1 and self._pool.references(node.parent.page) == 1:
                    raise PoolError(f"cached page {node.page} is in use, but not page {node.parent.page} before it")
            if count == 1 and not node.children and (node.used, node.page) not in waiting:
                raise PoolError(f"cached page {node.page} is unused but would never be evicted")
        if unused != self._unused:
            raise PoolError(f"{unused} cached pages are unused; {self._unused} were counted")
        for node in self._nodes.values():
            if node.children != children[node.page]:
                raise PoolError(f"{children[node.page]} pages follow cached page {node.page}; {node.children} counted")


def _same(node: _Node, key: PageKey, parent: _Node | None) -> bool:
    """Whether a node is the page that a key names behind that parent: digests alone are not trusted."""
    return node.parent is parent and node.key == key
