from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homegrown.data.order import epoch_keys, permute

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def slow_mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def slow_key(seed: int, epoch: int) -> int:
    return slow_mix(slow_mix((seed + GOLDEN) & MASK) ^ slow_mix((epoch * GOLDEN + GOLDEN) & MASK))


def slow_permute(index: int, key: int, n: int) -> int:
    """The same permutation in plain integers, one index at a time."""
    a = math.ceil(math.sqrt(n))
    b = math.ceil(n / a)
    while True:
        x, y = index // b, index % b
        for turn in range(1, 9):
            side = a if turn % 2 else b
            x, y = y, ((x + slow_mix(y ^ ((key + turn * GOLDEN) & MASK))) & MASK) % side
        index = x * b + y
        if index < n:
            return index


def fast_permute(seed: int, epoch: int, n: int, indices: range) -> list[int]:
    keys = epoch_keys(seed, np.full(len(indices), epoch, np.uint64))
    return permute(np.array(indices, np.uint64), keys, n).tolist()


@pytest.mark.parametrize("n", [*range(1, 20), 97, 1024, 5000])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_size_is_permuted(n: int, epoch: int) -> None:
    assert sorted(fast_permute(0, epoch, n, range(n))) == list(range(n))


@given(n=st.integers(1, 2**40), seed=st.integers(0, MASK), epoch=st.integers(0, 10**6), data=st.data())
def test_equals_the_obvious_computation(n: int, seed: int, epoch: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, n - 1))
    indices = range(start, min(n, start + 5))
    expected = [slow_permute(index, slow_key(seed, epoch), n) for index in indices]
    assert fast_permute(seed, epoch, n, indices) == expected


def test_mixed_epochs_in_one_call() -> None:
    epochs = np.array([3, 3, 4, 5], np.uint64)
    index = np.array([98, 99, 0, 1], np.uint64)
    result = permute(index, epoch_keys(7, epochs), 100).tolist()
    assert result == [slow_permute(i, slow_key(7, e), 100) for i, e in zip([98, 99, 0, 1], [3, 3, 4, 5], strict=True)]


def test_the_order_is_the_same_for_ever() -> None:
    """A run that resumes years later must find its order: these values are part of the format."""
    assert fast_permute(0, 0, 10, range(10)) == [5, 3, 8, 1, 2, 0, 4, 6, 9, 7]
    assert fast_permute(1, 2, 10**12, range(3)) == [849348426633, 615197420218, 326152055357]


def test_the_order_looks_random() -> None:
    n = 10_000
    order = np.array(fast_permute(0, 0, n, range(n)), np.float64)
    # Serial correlation of a random permutation has standard deviation 1/sqrt(n) = 0.01.
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    # Each tenth of the epoch visits each tenth of the stream about n/100 = 100 times (standard deviation 9).
    table = np.histogram2d(np.arange(n), order, bins=10)[0]
    assert table.min() > 60
    assert table.max() < 140
