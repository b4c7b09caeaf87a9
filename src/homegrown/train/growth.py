"""Model-growth initialisation from a directory of trained weights."""

from __future__ import annotations

from pathlib import Path

import torch

from homegrown.hub import load
from homegrown.model import Longcat
from homegrown.optim import stack_layers


def grow(model: Longcat, source: Path) -> None:
    """Fill `model` with the layers of a shallower trained one, stacked in order (arXiv 2509.01322 section 3.3)."""
    small, _ = load(source, device="cpu", dtype=torch.float32)
    model.load_state_dict(stack_layers(small.state_dict(), small.config, model.config))
