from __future__ import annotations

import timeit
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.data import Batches, DatasetError, TokenDataset


def stream(dataset: TokenDataset) -> list[int]:
    """All training tokens, document after document."""
    return [token for index in range(dataset.train.documents) for token in dataset.train.document(index).tolist()]


def slow_first(row: list[int], bos: int) -> list[int]:
    first, began = [], 0
    for position, token in enumerate(row):
        if token == bos:
            began = position
        first.append(began)
    return first


@given(step=st.integers(0, 10**6), seq_len=st.integers(1, 600), global_batch=st.integers(1, 5), seed=st.integers())
@settings(max_examples=50, deadline=None)
def test_rows_are_windows_of_the_ring(
    dataset: TokenDataset, step: int, seq_len: int, global_batch: int, seed: int
) -> None:
    tokens = stream(dataset)
    batches = Batches(dataset.train, seq_len=seq_len, global_batch=global_batch, seed=seed)
    batch = batches.batch(step)
    assert batch.tokens.shape == batch.first.shape == (global_batch, seq_len + 1)
    assert batch.tokens.dtype == batch.first.dtype == np.int64
    for row, first, start in zip(batch.tokens, batch.first, batches.starts(step, range(global_batch)), strict=True):
        assert row.tolist() == [tokens[(int(start) + i) % len(tokens)] for i in range(seq_len + 1)]
        assert first.tolist() == slow_first(row.tolist(), bos=1)


def test_targets_that_count_are_those_inside_documents(dataset: TokenDataset) -> None:
    batch = Batches(dataset.train, seq_len=200, global_batch=4, seed=0).batch(0)
    counts = batch.first[:, 1:] == batch.first[:, :-1]
    # The only target that does not count is the BOS of the next document, at which the row's index changes.
    assert (counts == (batch.tokens[:, 1:] != 1)).all()
    assert not counts.all()


@given(step=st.integers(0, 1000), cuts=st.lists(st.integers(0, 12), max_size=4), stride=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_ranks_see_their_rows_of_the_same_batch(dataset: TokenDataset, step: int, cuts: list[int], stride: int) -> None:
    batches = Batches(dataset.train, seq_len=64, global_batch=12, seed=3)
    whole = batches.batch(step)
    edges = [0, *sorted(cuts), 12]
    parts = [batches.batch(step, slice(low, high)) for low, high in pairwise(edges)]
    assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
    assert np.array_equal(np.concatenate([part.first for part in parts]), whole.first)
    assert np.array_equal(batches.batch(step, slice(1, None, stride)).tokens, whole.tokens[1::stride])
    assert np.array_equal(batches.batch(step, slice(None, None, -1)).tokens, whole.tokens[::-1])


@given(order=st.permutations(range(8)), seed=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_a_batch_depends_on_seed_and_step_alone(dataset: TokenDataset, order: list[int], seed: int) -> None:
    fresh = Batches(dataset.train, seq_len=32, global_batch=4, seed=seed)
    expected = [fresh.batch(step).tokens for step in range(8)]
    again = Batches(dataset.train, seq_len=32, global_batch=4, seed=seed)
    for step in order:
        assert np.array_equal(again.batch(step).tokens, expected[step])


@pytest.mark.parametrize(("seq_len", "global_batch"), [(100, 4), (63, 7), (1000, 1), (1, 50)])
def test_an_epoch_covers_every_window_once(dataset: TokenDataset, seq_len: int, global_batch: int) -> None:
    """Across batches that end anywhere in the epoch, and for the epoch after it."""
    batches = Batches(dataset.train, seq_len=seq_len, global_batch=global_batch, seed=0)
    n, total = batches.windows, dataset.train.tokens
    assert n == total // seq_len
    steps = range(-(-2 * n // global_batch))
    starts = np.concatenate([batches.starts(step, range(global_batch)) for step in steps]).astype(np.int64)
    epochs = [starts[:n], starts[n : 2 * n]]
    for epoch in epochs:
        # Targets of a window start one after it: together they are n * seq_len different positions of the ring.
        targets = (epoch[:, None] + 1 + np.arange(seq_len)) % total
        assert len(np.unique(targets)) == n * seq_len
    if n > 3:
        assert not np.array_equal(epochs[0] - epochs[0][0], epochs[1] - epochs[1][0])
    assert set(epochs[0].tolist()) != set(epochs[1].tolist()) or seq_len == 1


def test_seeds_and_epochs_give_other_orders(dataset: TokenDataset) -> None:
    def starts(seed: int, step: int) -> list[int]:
        return Batches(dataset.train, seq_len=16, global_batch=64, seed=seed).starts(step, range(64)).tolist()

    assert len({tuple(starts(seed, step)) for seed in range(5) for step in range(5)}) == 25


def test_the_epoch_is_counted(dataset: TokenDataset) -> None:
    batches = Batches(dataset.train, seq_len=100, global_batch=4, seed=0)
    assert batches.epoch(0) == 0
    assert batches.epoch(batches.windows) == 4


def test_a_split_of_exactly_one_window_is_enough(dataset: TokenDataset) -> None:
    total = dataset.held.tokens
    batch = Batches(dataset.held, seq_len=total - 1, global_batch=3, seed=0).batch(0)
    assert (np.sort(batch.tokens, axis=1) == np.sort(batch.tokens[0])).all()
    with pytest.raises(DatasetError, match=f"the held split has {total} tokens, fewer than one window"):
        Batches(dataset.held, seq_len=total, global_batch=1, seed=0)


def test_impossible_requests_are_refused(dataset: TokenDataset) -> None:
    with pytest.raises(ValueError, match="both must be at least 1"):
        Batches(dataset.train, seq_len=0, global_batch=1, seed=0)
    with pytest.raises(ValueError, match="step -1: must not be negative"):
        Batches(dataset.train, seq_len=8, global_batch=1, seed=0).batch(-1)


def test_a_batch_is_quick(dataset: TokenDataset) -> None:
    batches = Batches(dataset.train, seq_len=512, global_batch=8, seed=0)
    # 0.15 ms on an idle core; the best of several runs, so that a busy machine does not matter.
    assert min(timeit.repeat(lambda: batches.batch(7), number=20, repeat=10)) / 20 < 1e-3
