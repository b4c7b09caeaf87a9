"""How a run is spread over devices."""

from __future__ import annotations

from dataclasses import dataclass

from homegrown.config.model import require


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Sizes of the six dimensions. Their product pp * dp * cp * tp is the number of processes; experts and n-gram
    tables fold over the dp * cp * tp processes of a pipeline stage."""

    dp: int = 0
    """Data parallelism: groups of processes that read different rows. 0 takes what the other sizes leave."""
    tp: int = 1
    """Tensor parallelism: attention heads, dense feed-forward widths and the vocabulary, with the sequence sharded
    between blocks."""
    cp: int = 1
    """Context parallelism: each row's sequence, in a balanced zig-zag."""
    pp: int = 1
    """Pipeline parallelism: layers."""
    ep: int = 1
    """Expert parallelism: processes among which a layer's experts are spread."""
    embp: int = 0
    """Embedding parallelism: processes among which the rows of the n-gram tables are spread. 0 takes all of a stage."""
    parts: int = 1
    """Pipeline parts per process: more than one interleaves them, which shortens the bubble and costs traffic."""
    layers: tuple[int, ...] = ()
    """Layers of each pipeline part, in order; empty spreads them evenly."""
    pod: int = 0
    """Processes joined by fast links (a superpod). Expert traffic that spans several pods then goes in two hops, one
    inside and one across. 0 knows no pods."""
    overlap: bool = True
    """Let expert traffic overlap with the dense path."""
    timeout_s: float = 600.0
    """Seconds after which a collective that does not complete is an error."""

    def __post_init__(self) -> None:
        for name in ("tp", "cp", "pp", "ep", "parts"):
            require(getattr(self, name) >= 1, f"parallel.{name} = {getattr(self, name)}: must be at least 1")
        for name in ("dp", "embp", "pod"):
            require(getattr(self, name) >= 0, f"parallel.{name} = {getattr(self, name)}: must not be negative")
        require(self.timeout_s > 0, f"parallel.timeout_s = {self.timeout_s}: must be positive")
        require(
            self.parts == 1 or self.pp > 1,
            f"parallel.parts = {self.parts}: interleaving needs pipeline parallelism (parallel.pp > 1)",
        )
