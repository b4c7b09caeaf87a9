"""The runner of a replica's first rank, and what the other ranks do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.serve.engine.batch import Batch, DraftBatch
from homegrown.serve.engine.buffers import HostPages, Kind
from homegrown.serve.engine.engine import pool_for
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.pages import PagePool
from homegrown.serve.engine.runner import Runner
from homegrown.serve.spread.model import SpreadModel
from homegrown.serve.spread.orders import Clear, Follower, Forward, Leader, Propose, Stop, Write, from_bytes, to_bytes


class LeadPool(PagePool):
    """The first rank's pages, whose contents are the same on all ranks: passes see to that where they compute keys, and
    this does where keys come from elsewhere.

    Args:
        leader: tells the other ranks.
        config, pages, page_size, device, dtype, drafts: as in `PagePool`.
    """

    def __init__(
        self,
        leader: Leader,
        config: ModelConfig,
        pages: int,
        page_size: int,
        device: torch.device | str,
        dtype: torch.dtype,
        drafts: bool = True,
    ) -> None:
        super().__init__(config, pages, page_size, device, dtype, drafts)
        self._leader = leader

    def restore(self, host: HostPages, pages: Sequence[int]) -> None:
        """Copy saved pages back, everywhere."""
        super().restore(host, pages)
        for number, saved in enumerate(host.tensors):
            self._leader.tell(Write("pages", number, list(pages), to_bytes(saved)))

    def write(self, kind: Kind, slot: int, cells: Sequence[int], rows: Tensor) -> None:
        """Write keys, everywhere."""
        super().write(kind, slot, cells, rows)
        self._leader.tell(Write(kind, slot, list(cells), to_bytes(rows)))

    def write_states(self, pages: Sequence[int], rows: Tensor) -> None:
        """Write states, everywhere."""
        super().write_states(pages, rows)
        self._leader.tell(Write("states", 0, list(pages), to_bytes(rows)))

    def clear(self, pages: Sequence[int]) -> None:
        """Set pages to zero, everywhere."""
        super().clear(pages)
        self._leader.tell(Clear(list(pages)))


class LeadRunner(Runner):
    """A runner that has the other ranks run everything along.

    Args:
        model: this rank's shards.
        pool: this rank's pages.
        invariant: as in `Runner`.
        leader: tells the other ranks.
    """

    def __init__(self, model: SpreadModel, pool: PagePool, invariant: bool, leader: Leader) -> None:
        super().__init__(model, pool, invariant)
        self._leader = leader

    def forward(self, batch: Batch) -> Tensor:
        """As in `Runner`."""
        self._leader.tell(Forward(batch))
        return super().forward(batch)

    def draft(self, batch: DraftBatch) -> list[list[int]]:
        """As in `Runner`."""
        if batch.segments:
            self._leader.tell(Propose(batch))
        return super().draft(batch)


def lead_runner(model: SpreadModel, options: EngineOptions, leader: Leader) -> LeadRunner:
    """The first rank's runner for an `Engine` with the same options."""
    make: Callable[..., PagePool] = lambda *args: LeadPool(leader, *args)  # noqa: E731
    return LeadRunner(model, pool_for(model, options, make), options.invariant, leader)


def run_along(model: SpreadModel, options: EngineOptions, follower: Follower) -> None:
    """What the other ranks do, until told to stop."""
    pool = pool_for(model, options)
    runner = Runner(model, pool, options.invariant)
    while not isinstance(order := follower.next(), Stop):
        if isinstance(order, Forward):
            runner.forward(order.batch)
        elif isinstance(order, Propose):
            runner.draft(order.batch)
        elif isinstance(order, Clear):
            pool.clear(order.pages)
        else:
            _write(pool, order)


def _write(pool: PagePool, order: Write) -> None:
    buffers, place = pool.buffers, torch.tensor(order.places, dtype=torch.int64, device=pool.buffers.device)
    if order.kind == "pages":
        buffer = buffers.all[order.slot]
    elif order.kind == "states":
        buffer = buffers.all[-1]
    else:
        buffer = buffers.latent[order.slot] if order.kind == "latent" else buffers.index[order.slot]
    rows = from_bytes(order.data, buffer.dtype, buffer.shape[1])
    buffer.index_copy_(0, place, rows.to(buffer.device))
