"""Digests of a run's state and data that do not depend on how it was spread over processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from homegrown.parallel.collectives import gather
from homegrown.parallel.groups import Group
from homegrown.train.run import Run, Workbench
from homegrown.train.trainer import Callback, Measured

_BYTES = 32
_SLICE = 1 << 24
"""Bytes brought to the host at a time."""


def digest(tensors: Mapping[str, Tensor], group: Group) -> str:
    """One digest of everything that the members of a group hold, as 64 hexadecimal digits. Collective.

    Each entry is hashed by itself (SHA-256 over key, dtype, shape and bytes), and the hashes are added up modulo 2^256,
    over entries and members: who holds which entry does not show, nor in which order.

    Args:
        tensors: this member's entries, on any device; each key on one member only.
        group: the members.
    """
    # Hashing leaves Python's lock alone, so threads run side by side.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        total = _sum(threads.map(_hash, tensors.items()))
    own = torch.frombuffer(bytearray(total.to_bytes(_BYTES, "big")), dtype=torch.uint8)
    return _sum(bytes(row) for row in gather(own, group).tolist()).to_bytes(_BYTES, "big").hex()


def rows_digest(bench: Workbench, step: int) -> str:
    """Digest of the global batch of a step (from 0): its rows' tokens and document borders. Collective."""
    place = bench.layout.place(bench.world.rank)
    rows: dict[str, Tensor] = {}
    # Of those who share a row, one speaks.
    if place.pp == place.cp == place.tp == 0:
        batch = bench.batch(step)
        first = place.dp * len(batch.tokens)
        for kind, array in (("tokens", batch.tokens), ("first", batch.first)):
            rows |= {f"{kind}/{first + row}": torch.from_numpy(line) for row, line in enumerate(array)}
    return digest(rows, bench.groups["world"])


class Digests(Callback):
    """Writes digests of state and data into the ledger, every `digest_every` steps and after the last one."""

    def on_step(self, run: Run, measured: Measured) -> None:
        """Wait for the device, and hash what a checkpoint of this moment would hold."""
        every = run.config.digest_every
        if not every or (run.step % every and run.step != run.config.steps):
            return
        state = digest(run.bench.stepper.owned(), run.bench.groups["world"])
        run.ledger.append("digest", step=run.step, state=state, data=rows_digest(run.bench, run.step - 1))


def _sum(hashes: Iterable[bytes]) -> int:
    return sum(int.from_bytes(one, "big") for one in hashes) % (1 << 8 * _BYTES)


def _hash(entry: tuple[str, Tensor]) -> bytes:
    key, tensor = entry
    dtype = str(tensor.dtype).removeprefix("torch.")
    hashed = hashlib.sha256(f"{key}\0{dtype}\0{list(tensor.shape)}\0".encode())
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    for part in raw.split(_SLICE):
        hashed.update(part.cpu().numpy())
    return hashed.digest()
