"""Log probabilities of tokens and of their likeliest alternatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from homegrown.serve.messages import TokenScore


@torch.inference_mode()
def scores(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """How likely each token was: the log-softmax of the model's own logits, before temperature and penalties.

    One row is computed at a time, so a score depends on nothing beside its row, and the memory taken is one row's
    whatever the length of a prompt.

    Args:
        logits: [S, V]; row i is what the model said before `tokens[i]`. For a prompt: the rows of its positions from
            the first on, with the tokens from the second on.
        tokens: S ids.
        top: so many likeliest tokens beside each, of equals the lowest id first.
    """
    return [_score(row if row.dtype == torch.float64 else row.float(), token, top)
            for row, token in zip(logits, tokens, strict=True)]  # fmt: skip


def _score(row: Tensor, token: int, top: int) -> TokenScore:
    total = row.logsumexp(0)
    if not top:
        return TokenScore(float(row[token] - total))
    least = row.topk(min(top, len(row))).values[-1]
    ids = (row >= least).nonzero()[:, 0]  # ascending; more than `top` where some are equal
    order = row[ids].argsort(descending=True, stable=True)[:top]
    logprobs = (row[ids[order]] - total).tolist()
    return TokenScore(float(row[token] - total), tuple(zip(ids[order].tolist(), logprobs, strict=True)))
