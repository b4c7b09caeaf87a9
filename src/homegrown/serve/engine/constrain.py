"""An answer that must follow a grammar, from its beginning or from behind its thinking."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from homegrown.serve.grammar import GrammarError, Matcher


class Constraint:
    """What a grammar allows next.

    Args:
        matcher: at the beginning of the grammar.
        after: the grammar begins behind this token; negative: at once.

    Attributes:
        waiting: the grammar has not begun: any token may come, but the answer may not end yet.
    """

    def __init__(self, matcher: Matcher, after: int = -1) -> None:
        self._matcher, self._after = matcher, after
        self.waiting = after >= 0

    def allowed(self, size: int) -> Tensor:
        """Which of `size` ids may come next: bool [size] on the host. Ids that the tokenizer lacks may not.

        An end token may come exactly where the grammar accepts.

        Raises:
            GrammarError: no token may, or the grammar is too complex to go on.
        """
        if self.waiting:
            return torch.ones(size, dtype=torch.bool)
        bits = np.frombuffer(self._matcher.bits(), np.uint8)
        flags = np.zeros(size, np.uint8)
        known = np.unpackbits(bits, bitorder="little", count=min(size, 8 * len(bits)))
        flags[: len(known)] = known
        if not flags.any():
            raise GrammarError("grammar: the answer cannot go on: none of the model's tokens may follow")
        return torch.from_numpy(flags).bool()

    def advance(self, token: int) -> None:
        """Take the next token of the answer.

        Raises:
            GrammarError: it is not allowed, or the grammar is too complex to go on.
        """
        if not self.waiting:
            self._matcher.advance(token)
        elif token == self._after:
            self.waiting = False
