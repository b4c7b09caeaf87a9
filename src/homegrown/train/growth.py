"""Model-growth initialisation from a directory of trained weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.hub import load
from homegrown.optim import stack_layers


def grown_tensors(source: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Weights of a model begun from a shallower trained one, its layers stacked in order (arXiv 2509.01322, 3.3).

    Args:
        source: Hugging Face directory of the shallower model.
        config: of the model to begin.
    """
    small, _ = load(source, device="cpu", dtype=torch.float32)
    return stack_layers(small.state_dict(), small.config, config)
