"""The pool's books and its memory."""

from __future__ import annotations

import pytest
import torch

from homegrown.config import ModelConfig
from homegrown.serve.engine.pages import PagePool, PoolError, page_bytes
from tests.model.small import small


def pool(pages: int = 6, config: ModelConfig | None = None, drafts: bool = True, size: int = 4) -> PagePool:
    return PagePool(config or small(num_layers=1), pages, size, "cpu", torch.float32, drafts)


def test_pages_are_taken_all_or_none() -> None:
    pages = pool(3)
    two = pages.allocate(2)
    assert two is not None
    assert len(set(two)) == 2
    assert set(two) < {1, 2, 3}
    assert pages.allocate(2) is None
    assert pages.free_pages == 1
    assert pages.allocate(0) == []
    pages.check([two])
    pages.free(two)
    assert pages.free_pages == 3
    pages.check([])


def test_shared_pages_are_free_when_nobody_holds_them() -> None:
    pages = pool()
    taken = pages.allocate(2)
    assert taken is not None
    pages.share(taken[:1])
    assert [pages.references(page) for page in taken] == [2, 1]
    pages.free(taken)
    assert pages.free_pages == 5
    pages.check([taken[:1]])
    pages.free(taken[:1])
    assert pages.free_pages == 6


@pytest.mark.parametrize("page", [0, 2, 7, -1])
def test_a_page_that_nobody_holds_is_refused(page: int) -> None:
    pages = pool()
    pages.free(pages.allocate(6) or [])
    for act in (pages.free, pages.share):
        with pytest.raises(PoolError, match=f"page {page} is not held by anyone"):
            act([page])


def test_wrong_books_are_found() -> None:
    pages = pool()
    taken = pages.allocate(1) or []
    with pytest.raises(PoolError, match=f"page {taken[0]} has 1 references but 0 holders"):
        pages.check([])
    with pytest.raises(PoolError, match="page 1 has 1 references but 2 holders"):
        pages.check([[1], [1]])
    with pytest.raises(PoolError, match="page 0 is held or free"):
        pages.check([taken, [0]])
    pages._free.append(taken[0])
    with pytest.raises(PoolError, match="stands 1 times among the free ones"):
        pages.check([taken])


@pytest.mark.parametrize(("pages", "size", "name"), [(0, 4, "pages = 0"), (4, 0, "page_size = 0")])
def test_sizes_are_checked(pages: int, size: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        pool(pages, size=size)


@pytest.mark.parametrize("drafts", [True, False])
def test_memory_of_a_page(drafts: bool) -> None:
    for config in (small(), small(sparse={"topk": 0}), small(mtp={"layers": 0}), small(mtp={"indexer": False})):
        buffers = pool(6, config, drafts).buffers
        assert sum(buffer.nbytes for buffer in buffers.all) == 7 * page_bytes(config, 4, torch.float32, drafts)
        assert (buffers.states is not None) == buffers.drafts == (drafts and config.mtp.layers > 0)


def test_swapped_pages_come_back_to_the_bit() -> None:
    pages = pool()
    generator = torch.Generator().manual_seed(0)
    for buffer in pages.buffers.all:
        buffer[1:] = torch.randn(buffer[1:].shape, generator=generator)
    taken = pages.allocate(4) or []
    before = [buffer[taken].clone() for buffer in pages.buffers.all]
    saved = pages.save(taken)
    assert saved.count == 4
    pages.free(taken)
    pages.clear(taken)
    others = pages.allocate(1) or []
    again = (pages.allocate(4) or [])[::-1]
    untouched = [buffer[[0, *others]].clone() for buffer in pages.buffers.all]
    pages.restore(saved, again)
    assert again != taken
    assert all(map(torch.equal, before, (buffer[again] for buffer in pages.buffers.all)))
    assert all(map(torch.equal, untouched, (buffer[[0, *others]] for buffer in pages.buffers.all)))
    with pytest.raises(ValueError, match="4 pages were saved; they cannot be restored into 3"):
        pages.restore(saved, again[:3])
    assert pages.save([]).count == 0


def test_cleared_pages_are_zero() -> None:
    pages = pool()
    for buffer in pages.buffers.all:
        buffer[1:] = torch.nan
    pages.clear([2, 5])
    for buffer in pages.buffers.all:
        assert buffer.isnan().all(1).tolist() == [False, True, False, True, True, False, True]
