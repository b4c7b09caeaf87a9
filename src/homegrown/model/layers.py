"""The small parts: linear maps without bias, norms, the dense feed-forward network."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homegrown import ops


class Linear(nn.Module):
    """y = W x (+ b); weight [out, in]. Weights are set by `Longcat.init_weights` or a checkpoint, not here."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return ops.linear(x, self.weight, self.bias)


Scorer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden [N, H], weight [V, H], target [N]) -> summed cross-entropy of the targets that are not −1. The local one has
the whole vocabulary here; tensor parallelism brings one for a head whose rows are spread."""


class Head(Linear):
    """The unembedding, [V, H].

    Attributes:
        scorer: how cross-entropies are computed; replaced from outside when the rows are sharded.
    """

    def __init__(self, hidden: int, vocab: int) -> None:
        super().__init__(hidden, vocab)
        self.scorer: Scorer = ops.linear_cross_entropy

    def cross_entropy(self, hidden_NH: Tensor, target_N: Tensor) -> Tensor:
        """Summed cross-entropy in nats, float32 or wider; a target of −1 leaves its token out."""
        return self.scorer(hidden_NH, self.weight, target_N)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """scale · RMS(x; w, ε); a scale other than one is folded into the weight, as the engines do."""
        return ops.rms_norm(x, self.weight if scale == 1.0 else self.weight * scale, self.eps)


class LayerNorm(nn.Module):
    """Layer norm with bias (the indexer's other key norm)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class DenseFFN(nn.Module):
    """FFN(x) = W_down (silu(W_gate x) ⊙ W_up x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, width)
        self.up_proj = Linear(hidden, width)
        self.down_proj = Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))


class Words(nn.Module):
    """The table of word embeddings, [V, H]."""

    def __init__(self, vocab: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] -> [..., H]."""
        return F.embedding(tokens, self.weight)
