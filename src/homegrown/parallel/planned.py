"""What uniform routing sends where, on average: sizes for a run without numbers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from homegrown.config import ModelConfig


@dataclass(frozen=True)
class Balance:
    """A token chooses `choices` different ones among `experts` real and `zero` zero experts, all equally likely.

    Attributes:
        given: probability of what is known of the tokens in question already.
    """

    choices: int
    experts: int
    zero: int
    given: float = 1.0

    @classmethod
    def of(cls, model: ModelConfig) -> Balance:
        """Of a model's routers."""
        return cls(model.moe_topk, model.n_routed_experts, model.zero_expert_num)

    def reach(self, experts: int) -> float:
        """Probability that a token chooses at least one of so many experts: one less the chance of choosing all among
        the others, which is hypergeometric."""
        total = self.experts + self.zero
        missed = [max(0, total - experts - drawn) / (total - drawn) for drawn in range(self.choices)]
        return (1 - math.prod(missed)) / self.given

    def chosen(self, experts: int) -> float:
        """Mean number of choices that a token makes among so many experts."""
        return self.choices * experts / (self.experts + self.zero) / self.given

    def within(self, experts: int) -> Balance:
        """Of the tokens that chose at least one of so many experts, as far as those are concerned."""
        return dataclasses.replace(self, given=self.given * self.reach(experts))


def distinct(ids: int, rows: int) -> float:
    """Mean number of different rows that so many ids name, all rows being equally likely."""
    return -rows * math.expm1(ids * math.log1p(-1 / rows)) if rows > 1 else min(rows, ids)
