"""Which pages a sequence has: found in the cache, taken, shared, swapped out, given back."""

from __future__ import annotations

from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.pages import PagePool
from homegrown.serve.engine.prefix import PrefixCache, page_keys
from homegrown.serve.engine.sequence import Sequence


class KeyMemory:
    """The pages of all sequences.

    Args:
        pool: the pages.
        options: of the engine.
        drafts: tokens that may be proposed behind the newest; they need room too.

    Attributes:
        host_used: pages of host memory in use.
        swapped: sequences that are there.
    """

    def __init__(self, pool: PagePool, options: EngineOptions, drafts: int) -> None:
        self.host_used = self.swapped = 0
        self._pool, self._options, self._drafts = pool, options, drafts
        self._prefix = PrefixCache(pool, options.prefix_cache)

    @property
    def capacity(self) -> int:
        """Tokens that fit if one sequence has everything."""
        return self._pool.pages * self._pool.page_size

    @property
    def available(self) -> int:
        """Pages that can be taken."""
        return self._prefix.available

    @property
    def used(self) -> int:
        """Pages that sequences hold."""
        return self._pool.pages - self.available

    @property
    def cached(self) -> int:
        """Pages kept for later prompts, those in use among them."""
        return self._prefix.cached

    def shared(self, sequence: Sequence, other: Sequence) -> int:
        """Tokens of whole pages with which two prompts begin alike, and that one may take from the other."""
        self._name(sequence, sequence.prompt_end)
        low, high = 0, min(len(sequence.keys), len(other.keys))
        while low < high:  # each key names everything before it, too
            middle = (low + high + 1) // 2
            if sequence.keys[middle - 1] == other.keys[middle - 1]:
                low = middle
            else:
                high = middle - 1
        tokens = min(low * self._pool.page_size, self._limit(sequence))
        return tokens - tokens % (self._options.chunk if self._options.invariant else self._pool.page_size)

    def enter(self, sequence: Sequence, spare: int) -> bool:
        """Give a sequence all pages that it needs before it answers; those of a known beginning are shared.

        Args:
            sequence: has none.
            spare: pages that must be left for others.

        Returns:
            Whether there were enough; if not, nothing has changed.
        """
        if sequence.host is not None:
            return self._swap_in(sequence, spare)
        self._name(sequence, sequence.prompt_end)
        multiple = self._options.chunk if self._options.invariant else 1
        known = self._prefix.match(sequence.keys, self._limit(sequence), multiple)
        self._prefix.lock(known)
        new = self._take(self._needed(sequence) - len(known), spare)
        if new is None:
            self._prefix.release(known)
            return False
        sequence.pages = known + new
        sequence.published = len(known)
        sequence.computed = len(known) * self._pool.page_size
        if not sequence.usage.preempted:
            sequence.usage.cached_tokens = sequence.computed
        return True

    def extend(self, sequence: Sequence, tokens: int) -> bool:
        """Give a sequence room for so many tokens in all; whether there was enough."""
        new = self._prefix.allocate(max(self._count(min(tokens, sequence.longest)) - len(sequence.pages), 0))
        sequence.pages.extend(new or ())
        return new is not None

    def publish(self, sequence: Sequence) -> None:
        """Offer a sequence's full pages to later prompts.

        In batch-invariant mode only whole chunks of a prompt are: what else it holds was computed in other shapes than
        a later prompt would be.
        """
        certain = sequence.computed
        if self._options.invariant:
            certain = min(certain, len(sequence.request.prompt) // self._options.chunk * self._options.chunk)
        full = certain // self._pool.page_size
        if full > sequence.published:
            self._name(sequence, full * self._pool.page_size)
            sequence.pages = self._prefix.insert(sequence.keys[:full], sequence.pages, sequence.published)
            sequence.published = full

    def leave(self, sequence: Sequence) -> None:
        """Take a sequence's pages back, wherever they are."""
        self._prefix.release(sequence.pages)
        sequence.pages, sequence.published = [], 0
        self._drop_host(sequence)

    def cleanse(self, sequence: Sequence) -> None:
        """Take a sequence's pages back, and set them to zero: what they hold is not finite, and a weight of zero would
        not mask that for whoever has them next. Pages kept for later prompts go too, since these may be among them."""
        pages = sequence.pages
        self.leave(sequence)
        self._prefix.clear()
        self._pool.clear([page for page in pages if not self._pool.references(page)])

    def swap_out(self, sequence: Sequence) -> bool:
        """Move a sequence's pages to host memory; whether there was room."""
        count = self._count(sequence.computed)
        if not count or self.host_used + count > self._options.host_pages:
            return False
        host = self._pool.save(sequence.pages[:count])
        self.leave(sequence)
        sequence.host = host
        self.host_used += count
        self.swapped += 1
        return True

    def check(self, sequences: list[Sequence]) -> None:
        """Verify the books; raises `PoolError`. Args: all sequences that have pages."""
        self._prefix.check()
        self._pool.check([*(sequence.pages for sequence in sequences), self._prefix.pages()])

    def _swap_in(self, sequence: Sequence, spare: int) -> bool:
        new = self._take(self._needed(sequence), spare)
        if new is None or sequence.host is None:
            return False
        self._pool.restore(sequence.host, new[: sequence.host.count])
        sequence.pages, sequence.published = new, 0
        self._drop_host(sequence)
        return True

    def _drop_host(self, sequence: Sequence) -> None:
        if sequence.host is not None:
            self.host_used -= sequence.host.count
            self.swapped -= 1
            sequence.host = None

    def _take(self, count: int, spare: int) -> list[int] | None:
        return self._prefix.allocate(count) if count + spare <= self.available else None

    def _needed(self, sequence: Sequence) -> int:
        """Pages for what it will compute before it makes its next token, and the drafts behind that."""
        return self._count(min(len(sequence.tokens) + 1 + self._drafts, sequence.longest))

    def _count(self, tokens: int) -> int:
        return -(-tokens // self._pool.page_size)

    def _limit(self, sequence: Sequence) -> int:
        """Tokens whose keys may come from the cache: something must be computed, and all of it where every token of the
        prompt is to be scored."""
        return 0 if sequence.prompt_scores is not None else sequence.prompt_end - 1

    def _name(self, sequence: Sequence, tokens: int) -> None:
        size, salt = self._pool.page_size, sequence.request.salt
        if tokens // size > len(sequence.keys):
            sequence.keys = page_keys(sequence.tokens[:tokens], size, salt, sequence.keys)
