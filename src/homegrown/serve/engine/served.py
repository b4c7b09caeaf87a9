"""What the engine needs of a model: `Longcat` has it, and so has one that is spread over several processes."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.model import Draft, History, Trunk
from homegrown.model.layers import RMSNorm
from homegrown.model.sparse import Selection
from homegrown.serve.engine.context import PagedContext


class Served(Protocol):
    """A model that runs on pages; see `Longcat` for what the methods do."""

    config: ModelConfig

    @property
    def norm(self) -> RMSNorm:
        """The final norm."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations, and of keys."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def trunk(self, tokens: Tensor, context: PagedContext) -> Trunk:
        """int64 [1, N] -> states [1, N, H]."""

    def draft_start(self, trunk: Trunk) -> Tensor:
        """The states that drafts continue from."""

    def logits(self, output: Tensor) -> Tensor:
        """[1, M, H] -> [1, M, V]."""

    def draft(
        self,
        tokens: Tensor,
        previous: Tensor,
        context: PagedContext,
        selection: Selection | None = None,
        history: History | None = None,
    ) -> Draft:
        """A step of the draft block."""
