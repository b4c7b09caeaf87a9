"""A rank's share of a model: its pipeline parts, built and wired to the other ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homegrown.config import ConfigError, TrainConfig
from homegrown.model import Longcat, sparse_lookup
from homegrown.model.router import MixtureOfExperts, Router
from homegrown.parallel.experts import ExpertDispatcher
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.parts import build_part
from homegrown.parallel.pipeline import Pipeline
from homegrown.parallel.rows import RowExchange
from homegrown.parallel.sequence import SequencePortion
from homegrown.parallel.tensor import shard_tensors


@dataclass(frozen=True)
class LivePart:
    """A pipeline part on its device: consecutive layers, with the embedding before or the head behind them."""

    model: Longcat
    layers: range
    first: bool
    last: bool


class Assembly:
    """All that a rank holds of a model, and how it is wired.

    Attributes:
        layout, rank, groups: who this is and whom it talks to.
        parts: pipeline parts by number.
        pipeline: what runs them on micro-batches.
        portion: which positions of each row are computed here; `None` for all.
        rows: the exchange of n-gram rows; `None` where they are all here.
        dispatchers: of each layer's experts, by layer; empty where they are all here.
    """

    def __init__(self, config: TrainConfig, layout: Layout, groups: Groups, device: torch.device) -> None:
        self.layout, self.groups, self.rank = layout, groups, groups.rank
        self.parts = {
            part.number: LivePart(build_part(config.model, part, layout, self.rank), *part[1:])
            for part in layout.parts_of(self.rank)
        }
        self.portion = SequencePortion(layout, groups) if groups["sequence"].size > 1 else None
        self.rows: RowExchange | None = None
        self.dispatchers: dict[int, ExpertDispatcher] = {}
        for part in self.parts.values():
            self._wire(part, config)
        self.pipeline = Pipeline(layout, self.rank, groups["pp"], device)
