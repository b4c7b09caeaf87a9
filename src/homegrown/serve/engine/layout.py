"""Where the rows of a pass lie: computed once on the host, used by every sublayer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from homegrown.config import ModelConfig
from homegrown.model.context import owner_slots
from homegrown.serve.engine.buffers import PageBuffers
from homegrown.serve.engine.part import Part
from homegrown.serve.engine.stretch import Stretch

PADDING, SLACK = 0.25, 4096
"""A group's padding may add this share of its keys, and so many keys in any case: that costs less than another group.
"""


@dataclass(frozen=True)
class Layout:
    """The rows of a pass, in the order of their stretches.

    Attributes:
        stretches: of the pass.
        groups: numbers of the stretches that attend together, in order; others only write their keys.
        shift: how far a row's token lies behind the position that it is computed at: 1 in the draft block, else 0.
    """

    stretches: Sequence[Stretch]
    groups: Sequence[Sequence[int]]
    shift: int = 0
    starts: list[int] = field(init=False)
    """Of each stretch, its first row; then the number of rows."""

    def __post_init__(self) -> None:
        starts = [0]
        for stretch in self.stretches:
            starts.append(starts[-1] + stretch.count)
        object.__setattr__(self, "starts", starts)

    @property
    def count(self) -> int:
        """Rows in all."""
        return self.starts[-1]

    def each(self, value: Callable[[Stretch, int], int]) -> list[int]:
        """A number for every row, made from its stretch and its token's position."""
        return [value(stretch, place) for stretch in self.stretches for place in range(stretch.past, stretch.stop)]

    def parts(self, config: ModelConfig, buffers: PageBuffers, budget: int) -> list[Part]:
        """What computes the groups' attention; `budget`: keys that each query may choose, 0 for all."""
        parts = []
        for group in self.groups:
            own = [self.stretches[number] for number in group]
            starts = [self.starts[number] for number in group]
            whole = sum(stretch.count for stretch in own) == self.count
            parts.append(Part(config, buffers, budget, self.shift, own, starts, whole))
        return parts


def budget_of(config: ModelConfig, shift: int) -> int:
    """Keys that a query of the main model (shift 0) or of the draft block (1) may choose; 0 where it sees all."""
    slot = config.attention_sublayers if shift else 0
    return config.sparse.topk if slot in owner_slots(config) else 0


def together(
    stretches: Sequence[Stretch], numbers: Sequence[int], budget: int, page_size: int, shift: int = 0
) -> list[list[int]]:
    """Groups for speed of the stretches of these numbers: prompts' alone; others together where padding the shorter
    ones costs little.

    Those that choose among their keys and those that see all of them are never in one group.
    """
    groups = [[number] for number in numbers if stretches[number].prefill]
    rest = [number for number in numbers if not stretches[number].prefill]
    for chooses in (False, True):
        members = [number for number in rest if (0 < budget < stretches[number].stop - shift) == chooses]
        groups += _by_length(stretches, members, page_size)
    return groups


def _by_length(stretches: Sequence[Stretch], members: Sequence[int], page_size: int) -> list[list[int]]:
    groups: list[list[int]] = []
    widest = real = 0
    for number in sorted(members, key=lambda number: -stretches[number].stop):
        keys = -(-stretches[number].stop // page_size) * page_size
        if not groups or widest * (len(groups[-1]) + 1) > (1 + PADDING) * (real + keys) + SLACK:
            groups.append([])
            widest, real = keys, 0
        groups[-1].append(number)
        real += keys
    return [sorted(group) for group in groups]


def alone(numbers: Iterable[int]) -> list[list[int]]:
    """Groups for sameness: every stretch attends as if nothing else were there."""
    return [[number] for number in numbers]


def indices(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """int64 numbers on a device."""
    return torch.tensor(numbers, dtype=torch.int64, device=device)
