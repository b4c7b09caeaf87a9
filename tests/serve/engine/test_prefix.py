"""The prefix cache: what it finds, keeps and gives up."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from homegrown.serve.engine.pages import PagePool, PoolError
from homegrown.serve.engine.prefix import PageKey, PrefixCache, page_keys
from tests.model.small import small

SIZE = 2
CONFIG = small(num_layers=1)


def cache(pages: int = 8, enabled: bool = True) -> tuple[PagePool, PrefixCache]:
    pool = PagePool(CONFIG, pages, SIZE, "cpu", torch.float32)
    return pool, PrefixCache(pool, enabled)


def put(prefix: PrefixCache, tokens: list[int], salt: str = "") -> list[int]:
    """Cache a text that nobody uses any more; its pages."""
    keys = page_keys(tokens, SIZE, salt)
    pages = prefix.allocate(len(keys))
    assert pages is not None
    pages = prefix.insert(keys, pages)
    prefix.release(pages)
    return pages


def test_keys_name_full_pages_and_everything_before_them() -> None:
    keys = page_keys([1, 2, 3, 4, 5], SIZE)
    assert len(keys) == 2
    assert page_keys([1, 2, 3, 4], SIZE) == keys
    assert page_keys([1, 2, 3, 4, 5, 6, 7], SIZE, known=keys)[:2] == keys
    assert page_keys([1, 2, 3, 4, 5, 6, 7], SIZE, known=keys) == page_keys([1, 2, 3, 4, 5, 6, 7], SIZE)
    other = page_keys([9, 2, 3, 4], SIZE)
    assert other[1].content == keys[1].content
    assert other[1].digest != keys[1].digest
    assert page_keys([1, 2], SIZE, salt="a")[0].digest != keys[0].digest
    assert page_keys([1], SIZE) == page_keys([], SIZE) == []


def test_the_longest_cached_beginning_is_found() -> None:
    pool, prefix = cache()
    pages = put(prefix, [1, 2, 3, 4, 5, 6])
    keys = page_keys([1, 2, 3, 4, 5, 6, 7, 8], SIZE)
    assert prefix.match(keys, 8) == pages
    assert prefix.match(keys, 5) == pages[:2]
    assert prefix.match(keys, 8, multiple=4) == pages[:2]
    assert prefix.match(keys, 8, multiple=5) == []
    assert prefix.match(page_keys([1, 2, 3, 9], SIZE), 4) == pages[:1]
    assert prefix.match(page_keys([3, 4, 5, 6], SIZE), 4) == []
    assert prefix.match(page_keys([1, 2, 3, 4], SIZE, salt="another tenant"), 4) == []
    prefix.check()
    pool.check([prefix.pages()])


def test_digests_alone_are_not_trusted() -> None:
    _, prefix = cache()
    pages = put(prefix, [1, 2, 3, 4])
    keys = page_keys([1, 2, 3, 4], SIZE)
    forged = PageKey(keys[0].digest, page_keys([7, 8], SIZE)[0].content)
    assert prefix.match([forged, keys[1]], 4) == []
    assert prefix.match([keys[1]], 4) == [], "a page found without the one before it"
    own = prefix.allocate(2) or []
    assert prefix.insert([forged, keys[1]], own) == own
    assert prefix.cached == len(pages)


def test_of_two_equal_pages_the_older_is_kept() -> None:
    pool, prefix = cache()
    keys = page_keys([1, 2, 3, 4, 5, 6], SIZE)
    first, second = prefix.allocate(3) or [], prefix.allocate(3) or []
    assert prefix.insert(keys[:2], first) == first
    kept = prefix.insert(keys, second)
    assert kept == [*first[:2], second[2]]
    assert pool.references(first[0]) == 3
    assert pool.references(second[0]) == 0
    pool.check([first, kept, prefix.pages()])
    prefix.release(first)
    assert prefix.available == pool.free_pages + 0
    prefix.release(kept)
    assert prefix.available == 8
    prefix.check()


def test_pages_may_be_inserted_as_they_fill() -> None:
    pool, prefix = cache()
    keys = page_keys(list(range(8)), SIZE)
    pages = prefix.allocate(4) or []
    for count in range(1, 5):
        assert prefix.insert(keys[:count], pages, start=count - 1) == pages
    assert prefix.cached == 4
    prefix.release(pages)
    assert prefix.match(keys, 8) == pages
    restored = prefix.allocate(4) or []
    assert restored != pages
    kept = prefix.insert(keys, restored, start=3)
    assert kept == pages, "a start that does not hold for these pages is not believed"
    pool.check([kept, prefix.pages()])


def test_the_least_recently_used_go_first_from_their_ends() -> None:
    pool, prefix = cache(6)
    old, new = put(prefix, [1, 2, 3, 4, 5, 6]), put(prefix, [7, 8, 9, 10])
    used = prefix.match(page_keys([1, 2], SIZE), 2)
    prefix.lock(used)
    prefix.release(used)
    assert prefix.available == 6
    assert prefix.evict(0) == 0
    assert prefix.allocate(2) is not None
    assert prefix.match(page_keys([1, 2, 3, 4, 5, 6], SIZE), 6) == old[:2]
    assert prefix.allocate(2) is not None
    assert prefix.match(page_keys([1, 2, 3, 4, 5, 6], SIZE), 6) == old[:1]
    assert prefix.match(page_keys([7, 8, 9, 10], SIZE), 4) == new[:1]
    assert prefix.allocate(1) is not None
    assert prefix.pages() == old[:1], "used last"
    assert prefix.allocate(2) is None
    assert prefix.cached == 1, "nothing is given up in vain"
    assert prefix.clear() == 1
    assert prefix.available == pool.free_pages == 1


def test_pages_in_use_are_not_evicted() -> None:
    _, prefix = cache(4)
    pages = put(prefix, [1, 2, 3, 4])
    prefix.lock(pages[:1])
    assert prefix.available == 3
    assert prefix.clear() == 1
    assert prefix.pages() == pages[:1]
    prefix.release(pages[:1])
    assert prefix.clear() == 1


def test_a_disabled_cache_keeps_nothing() -> None:
    pool, prefix = cache(enabled=False)
    put(prefix, [1, 2, 3, 4])
    assert prefix.cached == 0
    assert prefix.available == pool.free_pages == 8
    assert prefix.match(page_keys([1, 2], SIZE), 2) == []


def test_its_own_notes_do_not_grow_without_end() -> None:
    _, prefix = cache()
    pages = put(prefix, [1, 2])
    for _ in range(1000):
        prefix.lock(pages)
        prefix.release(pages)
    assert len(prefix._leaves) < 200
    prefix.check()
    assert prefix.evict(1) == 1


def test_wrong_books_are_found() -> None:
    pool, prefix = cache()
    pages = put(prefix, [1, 2, 3, 4])
    prefix.check()
    pool.share(pages[1:])
    with pytest.raises(PoolError, match=f"page {pages[1]} is in use, but not page {pages[0]} before it"):
        prefix.check()
    pool.free(pages[1:])
    prefix._leaves.clear()
    with pytest.raises(PoolError, match=f"page {pages[1]} is unused but would never be evicted"):
        prefix.check()


class Machine(RuleBasedStateMachine):
    """Texts that begin alike come, grow, leave and are swapped, in any order. Every page says, in its memory, for which
    text it was written; nothing may ever change what a holder reads there."""

    texts = Bundle("texts")

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.prefix = cache(10)
        self.held: dict[int, tuple[str, list[int], list[int], int]] = {}
        self.numbers = itertools.count()
        self.names: dict[tuple[str, tuple[int, ...]], float] = {}

    def name(self, salt: str, tokens: list[int], page: int) -> float:
        return self.names.setdefault((salt, tuple(tokens[: (page + 1) * SIZE])), float(len(self.names) + 1))

    def write(self, salt: str, tokens: list[int], pages: list[int], first: int) -> None:
        for number in range(first, len(tokens) // SIZE):
            assert self.pool.references(pages[number]) == 1, "a shared page is written"
            self.pool.buffers.all[0][pages[number]] = self.name(salt, tokens, number)

    @rule(target=texts, salt=st.sampled_from(["", "b"]), tokens=st.lists(st.integers(1, 2), min_size=1, max_size=9))
    def begin(self, salt: str, tokens: list[int]) -> object:
        keys = page_keys(tokens, SIZE, salt)
        found = self.prefix.match(keys, len(tokens) - 1)
        self.prefix.lock(found)
        more = self.prefix.allocate(-(-len(tokens) // SIZE) - len(found))
        if more is None:
            self.prefix.release(found)
            return multiple()
        pages = [*found, *more]
        self.write(salt, tokens, pages, len(found))
        number = next(self.numbers)
        self.held[number] = (salt, tokens, self.prefix.insert(keys, pages, len(found)), len(keys))
        return number

    @rule(number=texts, tokens=st.lists(st.integers(1, 2), min_size=1, max_size=4), insert=st.booleans())
    def grow(self, number: int, tokens: list[int], insert: bool) -> None:
        if number not in self.held:
            return
        salt, old, pages, inserted = self.held[number]
        whole = [*old, *tokens]
        more = self.prefix.allocate(-(-len(whole) // SIZE) - len(pages))
        if more is None:
            return
        pages = [*pages, *more]
        self.write(salt, whole, pages, len(old) // SIZE)
        keys = page_keys(whole, SIZE, salt)
        if insert:
            pages, inserted = self.prefix.insert(keys, pages, inserted), len(keys)
        self.held[number] = (salt, whole, pages, inserted)

    @rule(number=consumes(texts))
    def end(self, number: int) -> None:
        if number in self.held:
            self.prefix.release(self.held.pop(number)[2])

    @rule(number=texts)
    def swap(self, number: int) -> None:
        if number in self.held:
            salt, tokens, pages, _ = self.held.pop(number)
            saved = self.pool.save(pages)
            self.prefix.release(pages)
            again = self.prefix.allocate(saved.count)
            if again is not None:
                self.pool.restore(saved, again)
                self.held[number] = (salt, tokens, again, 0)

    @rule(count=st.integers(0, 3))
    def evict(self, count: int) -> None:
        assert self.prefix.evict(count) <= count

    @invariant()
    def books_add_up(self) -> None:
        self.prefix.check()
        self.pool.check([self.prefix.pages(), *(pages for _, _, pages, _ in self.held.values())])

    @invariant()
    def everyone_reads_what_was_written_for_them(self) -> None:
        memory = self.pool.buffers.all[0][:, 0].tolist()
        for salt, tokens, pages, _ in self.held.values():
            for number in range(len(tokens) // SIZE):
                assert memory[pages[number]] == self.name(salt, tokens, number)

    def teardown(self) -> None:
        for _, _, pages, _ in self.held.values():
            self.prefix.release(pages)
        self.prefix.clear()
        assert self.pool.free_pages == self.pool.pages, "nothing leaks"
        self.prefix.check()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
