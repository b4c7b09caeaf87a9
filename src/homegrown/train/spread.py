"""Scoring with a model that is spread over processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from homegrown.config import TrainConfig
from homegrown.parallel.assembly import Assembly
from homegrown.parallel.collectives import all_reduce
from homegrown.train.losses import Micro, PartOutput, WholeRows, score_part


class SpreadScorer:
    """A `Scorer` of which every process makes the same calls: rows go to data-parallel ranks, the rest as in training.

    Passes have the shape of a training micro-batch, which pipelines count on; what is missing is filled up and not
    scored.
    """

    def __init__(self, assembly: Assembly, config: TrainConfig, device: torch.device) -> None:
        self._assembly, self._device = assembly, device
        self._portion = assembly.portion or WholeRows()
        self._rows, self._length = config.data.micro_batch, config.data.seq_len
        self.rows = self._rows * assembly.layout.dp
        """Rows of a pass."""

    def __call__(self, tokens: Tensor, target: Tensor) -> Tensor:
        """Summed cross-entropy of at most `rows` rows of at most seq_len targets, the same on all processes."""
        assembly = self._assembly
        missing = (0, self._length - target.shape[1], 0, self.rows - target.shape[0])
        own = slice(*(self._rows * (assembly.layout.place(assembly.rank).dp + edge) for edge in (0, 1)))
        tokens, target = pad(tokens, missing)[own], pad(target, missing, value=-1)[own].to(self._device)
        micro = Micro(tokens.to(self._device), torch.zeros_like(tokens))

        def forward(number: int, index: int, hidden: Tensor | None) -> PartOutput:
            part = assembly.parts[number]
            return score_part(part.model, hidden, micro, target, self._portion, last=part.last)

        parts = [out.loss for out in assembly.pipeline.evaluate(1, forward)]
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for loss in parts:
            total += loss
        for group in (assembly.groups["tokens"], assembly.groups["pp"]):
            total = all_reduce(total, group)
        return total.cpu()
