"""A rank's share of a model: its pipeline parts, built and wired to the other ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from homegrown import device as devices
from homegrown.config import TrainConfig
from homegrown.model import Longcat
from homegrown.model.block import Layer
from homegrown.model.ngram import Lookup, local_lookup, sparse_lookup
from homegrown.model.router import MixtureOfExperts, Router
from homegrown.parallel.experts import ExpertDispatcher, HierarchicalDispatcher, expert_dispatcher
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.parts import build_part
from homegrown.parallel.pipeline import Pipeline
from homegrown.parallel.rows import RowExchange, row_exchange
from homegrown.parallel.sequence import SequencePortion
from homegrown.parallel.tensor import shard_tensors

TABLE = "ngram_embeddings.table"


@dataclass(frozen=True)
class LivePart:
    """A pipeline part on its device: consecutive layers, with the embedding before or the head behind them."""

    model: Longcat
    layers: range
    first: bool
    last: bool

    @cached_property
    def parameters(self) -> tuple[tuple[str, nn.Parameter], ...]:
        """The model's, named. Listed once: a step goes through them several times, and they stay who they are."""
        return tuple(self.model.named_parameters())


class Assembly:
    """All that a rank holds of a model, wired to the other ranks. Weights are empty until `fill` or a checkpoint.

    Args:
        config: the run.
        layout: who is who.
        groups: this rank's.
        device, dtype: where and in what it computes; `meta` for a dry run.

    Attributes:
        parts: pipeline parts by number.
        pipeline: what runs them on micro-batches.
        portion: which positions of each row are computed here; `None` for all.
        dispatchers: of layers whose experts are spread.
    """

    def __init__(
        self, config: TrainConfig, layout: Layout, groups: Groups, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config, self.layout, self.groups, self.rank = config.model, layout, groups, groups.rank
        self.device, self.dtype = device, dtype
        self._lazy = config.optim.ngram_rows == "lazy"
        self._sparse = device.type == "meta" or devices.has_sparse(device)
        planned = device.type == "meta"
        self.portion = SequencePortion(groups) if groups["sequence"].size > 1 else None
        self.dispatchers: list[ExpertDispatcher | HierarchicalDispatcher] = []
        self._rows: RowExchange | None = None
        self.parts: dict[int, LivePart] = {}
        for part in layout.parts_of(self.rank):
            model = build_part(config.model, part, layout, self.rank).cast(dtype).to_empty(device=device)
            self.parts[part.number] = LivePart(model, part.layers, part.first, part.last)
            for mixture in mixtures(model).values():
                mixture.dispatcher = expert_dispatcher(groups, config.model, config.parallel.overlap, planned)
                if isinstance(mixture.dispatcher, ExpertDispatcher | HierarchicalDispatcher):
                    self.dispatchers.append(mixture.dispatcher)
            shard_tensors(model, groups["tp"])
            if model.ngram_embeddings is not None:
                model.ngram_embeddings.lookup = self._lookup(planned)
        data, unit = config.data, layout.sequence_unit
        length = -(-data.seq_len // unit) * unit // (layout.cp * layout.tp)
        shape = (data.micro_batch, length, config.model.hidden_size)
        through = config.loss.indexer_stage != "dense" or not config.loss.indexer_every
        self.pipeline = Pipeline(layout, groups["pp"], device, dtype, shape, through)

    def _lookup(self, planned: bool) -> Lookup:
        if self.layout.embp > 1 or planned:
            self._rows = row_exchange(self.groups, self.config, planned)
            return self._rows
        return sparse_lookup if self._lazy and self._sparse else local_lookup

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Local shards of all parts, under the names of the whole model's parameters."""
        for part in self.parts.values():
            yield from part.parameters

    def routers(self) -> dict[int, Router]:
        """The routers that live here, by layer."""
        parts = self.parts.values()
        return {layer: mixture.router for part in parts for layer, mixture in mixtures(part.model).items()}

    def begin_leaf(self, micro: int | None) -> None:
        """A part begins with a micro-batch: rows' gradients that come back belong to it; with `None`, to nothing."""
        if self._rows is not None:
            self._rows.begin_leaf(micro)

    def collect(self, leaves: int) -> None:
        """Give the n-gram table its gradient, which did not come through autograd, over so many leaves of each rank."""
        for name, parameter in self.named_parameters():
            if name == TABLE and self._rows is not None:
                parameter.grad_dtype = None
                parameter.grad = self._rows.collect(leaves, dense=not (self._lazy and self._sparse))


def mixtures(model: Longcat) -> dict[int, MixtureOfExperts]:
    """The mixtures of experts of the layers that are here, by layer."""
    layers = ((int(number), layer) for number, layer in model.layers.items())
    return {number: layer.mlp for number, layer in layers if isinstance(layer, Layer)}
