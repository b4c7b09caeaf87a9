"""A rank's share of a model: its pipeline parts, built and wired to the other ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homegrown.config import TrainConfig
from homegrown.model import Longcat
from homegrown.model.router import Router
from homegrown.parallel.experts import ExpertDispatcher, HierarchicalDispatcher, expert_dispatcher
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.parts import build_part
from homegrown.parallel.pipeline import Pipeline
from homegrown.parallel.rows import RowExchange
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
        planned = device.type == "meta"
        self.portion = SequencePortion(groups) if groups["sequence"].size > 1 else None
        self.dispatchers: list[ExpertDispatcher | HierarchicalDispatcher] = []
        self._rows: RowExchange | None = None
        self.parts: dict[int, LivePart] = {}
        for part in layout.parts_of(self.rank):
            model = build_part(config.model, part, layout, self.rank).cast(dtype).to_empty(device=device)
            model.recompute = config.recompute
            self.parts[part.number] = LivePart(model, part.layers, part.first, part.last)
            for layer in model.layers.values():
                layer.mlp.dispatcher = expert_dispatcher(groups, config.model, config.parallel.overlap, planned)
                if isinstance(layer.mlp.dispatcher, ExpertDispatcher | HierarchicalDispatcher):
                    self.dispatchers.append(layer.mlp.dispatcher)
            shard_tensors(model, groups["tp"])
            if model.ngram_embeddings is not None and config.optim.ngram_rows == "lazy":
                self._rows = RowExchange(groups["embp"], model.ngram_embeddings)
                model.ngram_embeddings.lookup = self._rows
        data, unit = config.data, layout.sequence_unit
        length = -(-data.seq_len // unit) * unit // (layout.cp * layout.tp)
        shape = (data.micro_batch, length, config.model.hidden_size)
        self.pipeline = Pipeline(layout, groups["pp"], device, dtype, shape)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Local shards of all parts, under the names of the whole model's parameters."""
        for part in self.parts.values():
            yield from part.model.named_parameters()

    def routers(self) -> dict[int, Router]:
        """The routers that live here, by layer."""
        return {
            int(number): layer.mlp.router for part in self.parts.values() for number, layer in part.model.layers.items()
        }

    def begin_leaf(self, micro: int) -> None:
        """A part begins with a micro-batch: rows' gradients that come back belong to it."""
        if self._rows is not None:
            self._rows.begin_leaf(micro)

    def collected(self) -> dict[str, Tensor]:
        """Gradients that did not come through autograd, of all leaves since the last call."""
        gradient = None if self._rows is None else self._rows.collect()
        return {} if gradient is None else {TABLE: gradient}
