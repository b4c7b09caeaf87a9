"""The decoder layer: two attention and two dense sublayers around one shortcut-connected mixture (ScMoE)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from homegrown.config import ModelConfig
from homegrown.model.attention import LatentAttention
from homegrown.model.context import Context, owner_slots
from homegrown.model.layers import DenseFFN, RMSNorm
from homegrown.model.router import MixtureOfExperts, Routing
from homegrown.model.sparse import Selection


class LayerOutput(NamedTuple):
    """What a layer hands on: hidden state, routing, the selection that the next layer reuses (`None` where that one
    chooses anew), indexer losses of its sublayers."""

    hidden: Tensor
    routing: Routing
    selection: Selection | None
    index_losses: tuple[Tensor, ...]


class Layer(nn.Module):
    """One logical layer (arXiv 2509.01322 section 2.2).

    The mixture reads the first sublayer's normed state and joins at the very end, so that sending tokens to experts
    can overlap with the dense sublayers between.
    """

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        owners = owner_slots(config)
        slots = (2 * number, 2 * number + 1)
        self.input_layernorm = nn.ModuleList(RMSNorm(hidden, eps) for _ in slots)
        self.self_attn = nn.ModuleList(LatentAttention(config, slot, slot in owners) for slot in slots)
        self.post_attention_layernorm = nn.ModuleList(RMSNorm(hidden, eps) for _ in slots)
        self.mlps = nn.ModuleList(DenseFFN(hidden, config.ffn_hidden_size) for _ in slots)
        self.mlp = MixtureOfExperts(config)
        self.last_of_selection = 2 * number + 2 in owners

    def forward(self, hidden: Tensor, context: Context, selection: Selection | None) -> LayerOutput:
        """[B, S, H] -> [B, S, H] with what the router and the indexer did."""
        x = self.input_layernorm[0](hidden)
        attended, selection, loss_0 = self.self_attn[0](x, context, self._reused(0, selection))
        hidden = hidden + attended
        x = self.post_attention_layernorm[0](hidden)
        mixture, routing = self.mlp.send(x, context.padding)
        hidden = hidden + self.mlps[0](x)

        x = self.input_layernorm[1](hidden)
        attended, selection, loss_1 = self.self_attn[1](x, context, self._reused(1, selection))
        hidden = hidden + attended
        mixture = self.mlp.compute(mixture)
        x = self.post_attention_layernorm[1](hidden)
        hidden = hidden + self.mlps[1](x) + self.mlp.receive(mixture)
        selection = None if self.last_of_selection else selection
        return LayerOutput(hidden, routing, selection, tuple(loss for loss in (loss_0, loss_1) if loss is not None))

    def _reused(self, sublayer: int, selection: Selection | None) -> Selection | None:
        """Owners choose anew; the others reuse the last owner's selection."""
        return None if self.self_attn[sublayer].indexer is not None else selection
