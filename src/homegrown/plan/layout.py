"""How a step is spread over devices, as the planner sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from homegrown.config.errors import ConfigError

Schedule = Literal["1f1b", "interleaved", "zero-bubble", "dual"]
Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the six dimensions and what goes with them; pp * dp * cp * tp devices.

    Experts fold over the dp * cp * tp devices of a pipeline stage (`ep` of them share the experts of a layer, each
    expert's matrices cut in `etp`), n-gram tables over `embp` of them.

    Attributes:
        parts: pipeline parts (virtual stages) of a device.
        micro_batch: sequences of a micro-batch; `batch`: of a step, over all devices.
        sequence: tokens of a sequence.
        schedule: of the pipeline; `dual` is DualPipe, which keeps two copies of the weights.
        recompute: what the backward pass does again: nothing, attention's inside, or everything.
        sequence_parallel: with tp, activations between blocks are cut along the sequence.
        zero: 0, every data-parallel rank keeps all optimizer state; 1, its share.
        precision: dtype of the matrix products; `dispatch`: of expert traffic to experts (back it is bf16).
        balanced: experts get equally many tokens (as benchmarks force them to).
        layers: of each pipeline part, in order; empty spreads them so that the slowest part is quickest.
        fused: attention and the loss keep their scores on the chip; False writes them to memory, as programs did
            before 2023.
        overlap: traffic hides behind computation where it can; `comm_share` of the device computes nothing meanwhile.
        ep_overlap: with `overlap`, expert traffic hides too, behind another micro-batch or a shortcut's other branch.
        tp_overlap: tensor-parallel traffic hides, too: products start on the pieces that have come.
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int = 1
    embp: int = 1
    parts: int = 1
    micro_batch: int = 1
    batch: int
    sequence: int
    schedule: Schedule = "1f1b"
    recompute: Recompute = "selective"
    sequence_parallel: bool = True
    zero: Literal[0, 1] = 1
    precision: Literal["bf16", "fp8", "fp4", "int8", "fp32"] = "bf16"
    dispatch: Literal["bf16", "fp8"] = "bf16"
    optimizer: Literal["adamw", "muon"] = "adamw"
    offload: bool = False
    balanced: bool = False
    overlap: bool = True
    ep_overlap: bool = True
    tp_overlap: bool = False
    comm_share: float = 0.0
    layers: tuple[int, ...] = ()
    fused: bool = True

    @property
    def devices(self) -> int:
        """Devices of the run."""
        return self.pp * self.dp * self.cp * self.tp

    @property
    def micro_batches(self) -> int:
        """Micro-batches that a device sees in a step."""
        return self.batch // (self.dp * self.micro_batch)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.sequence

    def __post_init__(self) -> None:
        for name in ("tp", "cp", "pp", "dp", "ep", "etp", "embp", "parts", "micro_batch", "batch", "sequence"):
            size = getattr(self, name)
            if size < 1:
                raise ConfigError(f"layout.{name} = {size}: must be at least 1")
        if self.batch % (self.dp * self.micro_batch):
            raise ConfigError(
                f"layout.batch = {self.batch}: must be divisible by dp * micro_batch = {self.dp * self.micro_batch}"
            )
        stage = self.dp * self.cp * self.tp
        for name, size in (("ep * etp", self.ep * self.etp), ("embp", self.embp)):
            if stage % size:
                raise ConfigError(f"layout.{name} = {size}: must divide the {stage} devices of a pipeline stage")
        if self.parts > 1 and self.pp == 1:
            raise ConfigError(f"layout.parts = {self.parts}: interleaving needs pp > 1")
