"""General-purpose compressors on the held-out text: what a model has to beat, in bits per byte."""

from __future__ import annotations

import gzip
import lzma
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from homegrown.data.dataset import TokenDataset
from homegrown.data.errors import DatasetError

PRIME_BYTES = 64 * 2**20
"""Default limit of the training text that xz is primed with: it takes about a second a megabyte."""


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of the held-out text."""

    gzip: float
    xz: float
    xz_primed: float
    """xz that has read the training text before."""
    primed_bytes: int
    """How much of it."""

    def table(self) -> dict[str, float]:
        """By the names reports use."""
        return {"gzip -9": self.gzip, "xz -9e": self.xz, "xz -9e primed": self.xz_primed}


def baselines(dataset: TokenDataset, prime_bytes: int = PRIME_BYTES) -> Baselines:
    """Compress a dataset's held-out text, all documents in one piece.

    Takes about a second a megabyte of training text on two free cores; xz holds the interpreter's lock only briefly,
    so a thread of its own is enough to do this beside other work.

    Args:
        dataset: its texts are decoded from its tokens.
        prime_bytes: at most this much training text primes xz (the first whole documents that fit).

    Raises:
        DatasetError: nothing is held out.
    """
    held = b"".join(dataset.texts("held"))
    return compress(_first_texts(dataset, prime_bytes), held)


def compress(train: bytes, held: bytes) -> Baselines:
    """The baselines of `held`, given `train`.

    Primed is what `held` adds to the compressed size when it follows `train`, with a dictionary that covers both.

    Raises:
        DatasetError: `held` is empty.
    """
    if not held:
        raise DatasetError(
            "nothing is held out, so there is nothing to compress: write the dataset with a held-out part"
        )
    with ThreadPoolExecutor(max_workers=2) as pool:
        sizes = list(pool.map(_xz_size, (train + held, train, held)))
    bits = 8 / len(held)
    return Baselines(
        gzip=bits * len(gzip.compress(held, compresslevel=9)),
        xz=bits * sizes[2],
        xz_primed=bits * (sizes[0] - sizes[1]),
        primed_bytes=len(train),
    )


def _xz_size(data: bytes) -> int:
    """Length of `xz -9e` output. The dictionary is as large as the data needs: smaller than the preset's 64 MiB saves
    memory and changes no match, larger lets the end refer to the beginning."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": max(len(data), 4096)}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters))


def _first_texts(dataset: TokenDataset, limit: int) -> bytes:
    texts: list[bytes] = []
    room = limit
    for text in dataset.texts("train"):
        room -= len(text)
        if room < 0:
            break
        texts.append(text)
    return b"".join(texts)
