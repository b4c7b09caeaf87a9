"""`homegrown train` on a machine with one bad moment: `python -m tests.supervise.flipping WHAT CONFIG [flags]`.

In the first attempt rank 1 flips one bit in one step, of a weight or of a gradient; WHAT is `weight`, `gradient` or
`nothing`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import Tensor

from homegrown.cli.main import main
from homegrown.parallel.flight import ATTEMPT
from homegrown.train import pretrain
from homegrown.train.run import Run
from homegrown.train.trainer import Callback

STEP, RANK = 8, 1
NAME = "layers.0.mlps.0.up_proj.weight"


def flipped(tensor: Tensor) -> Tensor:
    """The same numbers but for one bit."""
    found = tensor.clone()
    found.view(torch.int32).view(-1)[5] ^= 1 << 20
    return found


class Flip(Callback):
    """Before the step whose first micro-batch is the one that checks compute twice."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_step(self, run: Run, measured: Any) -> None:
        if run.step != STEP - 1 or run.bench.world.rank != RANK or os.environ[ATTEMPT] != "1":
            return
        weight = dict(run.bench.assembly.named_parameters())[NAME]
        if self.what == "weight":
            weight.data.copy_(flipped(weight.data))
        elif self.what == "gradient":
            handle = weight.register_hook(lambda gradient: (handle.remove(), flipped(gradient))[1])


if __name__ == "__main__":
    usual = pretrain.callbacks
    pretrain.callbacks = lambda run, console: [*usual(run, console), Flip(sys.argv[1])]
    sys.exit(main(["train", *sys.argv[2:]]))
