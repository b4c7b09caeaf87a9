"""Multi-token prediction: one dense block, applied again and again to its own output (arXiv 2509.01322 section 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from homegrown.config import ModelConfig
from homegrown.model.attention import LatentAttention
from homegrown.model.context import Context, owner_slots
from homegrown.model.layers import DenseFFN, Linear, RMSNorm
from homegrown.model.sparse import Selection


class Draft(NamedTuple):
    """One draft step: `output` feeds the head, `chained` the next step, `selection` is reused by later steps."""

    output: Tensor
    chained: Tensor
    selection: Selection | None
    index_losses: tuple[Tensor, ...]


class MtpBlock(nn.Module):
    """u = W_eh [RMS(e) ‖ RMS(h)]; v = u + MLA(RMS(u)); v = v + FFN(RMS(v))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, eps, slot = config.hidden_size, config.rms_norm_eps, config.attention_sublayers
        self.enorm = RMSNorm(hidden, eps)
        self.hnorm = RMSNorm(hidden, eps)
        self.eh_proj = Linear(2 * hidden, hidden)
        self.input_layernorm = RMSNorm(hidden, eps)
        self.self_attn = LatentAttention(config, slot, slot in owner_slots(config))
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.mlp = DenseFFN(hidden, config.ffn_hidden_size)

    def forward(
        self, embedded: Tensor, previous: Tensor, context: Context, selection: Selection | None
    ) -> tuple[Tensor, Selection | None, Tensor | None]:
        """[B, S, H] embeddings of the next tokens and hidden states -> [B, S, H]."""
        u = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(previous)), dim=-1))
        attended, selection, loss = self.self_attn(self.input_layernorm(u), context, selection)
        v = u + attended
        return v + self.mlp(self.post_attention_layernorm(v)), selection, loss


class Mtp(nn.Module):
    """The draft head: its block, its final norm; embedding and unembedding are the model's own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.chain_post_norm = config.mtp.chain == "post_norm"
        self.layers = nn.ModuleList([MtpBlock(config)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, embedded: Tensor, previous: Tensor, context: Context, selection: Selection | None = None
    ) -> Draft:
        """One draft step.

        Args:
            embedded: [B, S, H] embeddings of the tokens one place ahead of `previous`.
            previous: [B, S, H] the model's output (first step) or the last step's `chained`.
            context: where the block's keys live.
            selection: the first step's selection, `None` in the first step.
        """
        hidden, selection, loss = self.layers[0](embedded, previous, context, selection)
        output = self.norm(hidden)
        chained = output if self.chain_post_norm else hidden
        return Draft(output, chained, selection, () if loss is None else (loss,))
