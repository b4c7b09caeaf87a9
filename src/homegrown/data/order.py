"""A random order that needs no memory: keyed permutations of any size, evaluated where they are asked for."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TURNS = [np.uint64(turn * int(_GOLDEN) % 2**64) for turn in range(1, 9)]
"""What makes each Feistel round's hash another one."""


def mix(x: U64) -> U64:
    """SplitMix64's finaliser: a bijection of 64-bit words whose output looks random (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def epoch_keys(seed: int, epochs: U64) -> U64:
    """One independent 64-bit key for each epoch of a seed.

    Args:
        seed: any integer; its low 64 bits count.
        epochs: [B].
    """
    start = np.full_like(epochs, seed % 2**64)
    return mix(mix(start + _GOLDEN) ^ mix(epochs * _GOLDEN + _GOLDEN))


def permute(index: U64, keys: U64, n: int) -> U64:
    """Where a keyed permutation of 0..n-1 sends `index`.

    A Feistel network on the grid a x b, the smallest near-square one with at least n cells: rounds add a keyed hash
    of one coordinate to the other, modulo its side, which is a bijection whatever the hash. Results outside 0..n-1
    walk on along their cycle until they fall inside (Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002); as a * b - n < a, few ever have to.

    Args:
        index: [B], each below n.
        keys: [B], one permutation each.
        n: size of the domain.
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    result = _feistel(index, keys, a, b)
    while (outside := result >= np.uint64(n)).any():
        result[outside] = _feistel(result[outside], keys[outside], a, b)
    return result


def _feistel(index: U64, keys: U64, a: int, b: int) -> U64:
    sides = (np.uint64(a), np.uint64(b))
    high, low = index // sides[1], index % sides[1]
    for turn in _TURNS:
        low, high = (high + mix(low ^ (keys + turn))) % sides[0], low
        sides = (sides[1], sides[0])
    return high * np.uint64(b) + low
