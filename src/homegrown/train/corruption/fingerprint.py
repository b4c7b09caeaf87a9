"""One number for the bits of a tensor, computed where the tensor is."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_WORDS = 1 << 16
"""Words of a block; a block and its factors stay in a CPU's cache."""
_AT_ONCE = 64
"""Blocks that an accelerator works on at a time: large enough to keep it busy, small beside the weights."""


@torch.no_grad()
def fingerprint(tensor: Tensor) -> Tensor:
    """An int64 scalar tensor on the tensor's device, a function of its length in bytes and of its bits.

    The bytes are read as 64-bit words; their sum modulo 2^64, each word times an odd factor of its own, does not depend
    on the order of the additions. A change of any single word changes it for certain, other changes but for a chance of
    about 2^-64. It finds accidents; against forgery there are digests (`train.digest`). Sparse tensors count as their
    rows and values.
    """
    if tensor.is_sparse:
        rows = tensor if tensor.is_coalesced() else tensor.coalesce()
        return fingerprint(rows.indices()) + 3 * fingerprint(rows.values())
    words = _words(tensor.detach())
    factors = _factors(words.device)
    if words.numel() <= _WORDS:
        return (words * factors[: words.numel()]).sum() + tensor.nbytes
    total = torch.full((), tensor.nbytes, dtype=torch.int64, device=words.device)
    whole = words.numel() // _WORDS
    step = 1 if words.device.type == "cpu" else _AT_ONCE
    for block in range(0, whole, step):
        part = words[block * _WORDS : min(block + step, whole) * _WORDS].view(-1, _WORDS)
        total += ((part * factors).sum(1) * _block_factors(block, len(part), words.device)).sum()
    rest = words[whole * _WORDS :]
    return total + (rest * factors[: rest.numel()]).sum() * _block_factors(whole, 1, words.device)[0]


def _words(tensor: Tensor) -> Tensor:
    """The bytes of a tensor as int64 [words]; a last word is filled up with zeros."""
    raw = tensor.contiguous().view(-1).view(torch.uint8)
    if raw.storage_offset() % 8:
        raw = raw.clone()
    whole = raw.numel() // 8 * 8
    words = raw[:whole].view(torch.int64)
    if whole == raw.numel():
        return words
    last = raw.new_zeros(8)
    last[: raw.numel() - whole] = raw[whole:]
    return torch.cat((words, last.view(torch.int64)))


@functools.cache
def _factors(device: torch.device) -> Tensor:
    """Odd factors of the words of a block."""
    generator = torch.Generator().manual_seed(0x5DC)
    return torch.randint(-(2**62), 2**62, (_WORDS,), generator=generator).mul_(2).add_(1).to(device)


def _block_factors(first: int, count: int, device: torch.device) -> Tensor:
    """Odd factors of blocks: block b has 2 b · (an odd constant) + 1."""
    return torch.arange(first, first + count, device=device) * (2 * 0x1E3779B97F4A7C15) + 1
