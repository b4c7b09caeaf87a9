"""The whole model: embedding, layers, head, draft head. It is the paper's forward pass and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from homegrown.config import ModelConfig
from homegrown.model.block import Layer
from homegrown.model.context import Context, FullContext, History
from homegrown.model.initialise import initialise
from homegrown.model.layers import Head, RMSNorm, Words
from homegrown.model.mtp import Draft, Mtp
from homegrown.model.ngram import NgramEmbedding
from homegrown.model.router import Router, Routing
from homegrown.model.sparse import Selection
from homegrown.ops import Span


@dataclass(frozen=True)
class Trunk:
    """What layers did to a hidden state.

    Attributes:
        hidden: [B, S, H] after the last of them, before the final norm.
        output: [B, S, H] after the final norm; `hidden` itself where the model is a part without its end.
        routing: one per layer.
        index_losses: indexer losses of all attention sublayers, where they were asked for.
    """

    hidden: Tensor
    output: Tensor
    routing: tuple[Routing, ...]
    index_losses: tuple[Tensor, ...]


class Longcat(nn.Module):
    """A LongCat-family model.

    `model(tokens)` scores whole sequences; `trunk`, `logits` and `draft` are its parts, for losses and generation.

    Attributes:
        recompute: recompute each layer in the backward pass instead of keeping its activations.
        layers: by number; a part of a model holds only some of them, under the numbers they have in the whole.
        embed_tokens, ngram_embeddings, norm, lm_head, mtp: `None` in a part of a model that does not hold them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.embed_tokens = Words(config.vocab_size, config.hidden_size)
        self.ngram_embeddings = NgramEmbedding(config) if config.ngram.order else None
        self.layers = nn.ModuleDict({str(number): Layer(config, number) for number in range(config.num_layers)})
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Head(config.hidden_size, config.vocab_size)
        self.mtp = Mtp(config) if config.mtp.layers else None

    def init_weights(self, seed: int) -> None:
        """Set every weight to its initial value, a function of the seed and the parameter's name alone."""
        initialise(self, self.config, seed)

    def cut(self, layers: range, first: bool, last: bool) -> Longcat:
        """Keep only a part of the model, in place: these layers, with what comes before them if they are the `first`
        ones, and what comes behind them if they are the `last`. The draft head embeds words too."""
        self.layers = nn.ModuleDict({name: layer for name, layer in self.layers.items() if int(name) in layers})
        absent = [] if first else ["ngram_embeddings"]
        absent += [] if last else ["norm", "lm_head", "mtp"]
        absent += [] if first or (last and self.mtp is not None) else ["embed_tokens"]
        for name in absent:
            setattr(self, name, None)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and activations, but for the weights that `cast` leaves alone."""
        return next(self.layers.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.layers.parameters()).device

    def cast(self, dtype: torch.dtype) -> Longcat:
        """Cast the weights to `dtype`, in place, but for those that are float32 by specification: the routers' and
        the indexers' head weights. The routers' correction biases are buffers and always float32."""
        for name, parameter in self.named_parameters():
            exempt = ".router.classifier." in name or name.endswith("indexer.weights_proj.weight")
            parameter.data = parameter.data.to(torch.float32 if exempt and dtype.itemsize < 4 else dtype)
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every next token.

        Args:
            tokens: int64 [B, S], each row one sequence from its start.

        Returns:
            [B, S, V].
        """
        return self.logits(self.trunk(tokens, self.context(tokens)).output)

    def context(self, tokens: Tensor, first: Tensor | None = None, index_loss: str = "off") -> FullContext:
        """The full-sequence context of a batch.

        Args:
            tokens: int64 [B, S].
            first: int64 [B, S], where in its row each position's document begins; `None` for one document a row.
            index_loss: `off`, `sparse` or `dense`: whether and how the indexer's loss is computed.
        """
        span = (
            Span.causal(tokens.shape[0], tokens.shape[1], device=tokens.device)
            if first is None
            else Span.packed(first, tokens.device)
        )
        return FullContext(self.config, span, self.dtype, index_loss)

    def trunk(self, tokens: Tensor, context: Context) -> Trunk:
        """Run the main model: int64 [B, S] -> hidden states."""
        return self.through(self.embed(tokens, context), context)

    def through(self, hidden: Tensor, context: Context) -> Trunk:
        """Run the layers that are here on [B, S, H], and the final norm if it is."""
        routing, index_losses = [], []
        selection: Selection | None = None
        for layer in self.layers.values():
            if self.recompute and torch.is_grad_enabled():
                out = checkpoint(layer, hidden, context, selection, use_reentrant=False, preserve_rng_state=False)
            else:
                out = layer(hidden, context, selection)
            hidden, selection = out.hidden, out.selection
            routing.append(out.routing)
            index_losses.extend(out.index_losses)
        output = hidden if self.norm is None else self.norm(hidden)
        return Trunk(hidden, output, tuple(routing), tuple(index_losses))

    def embed(self, tokens: Tensor, context: Context) -> Tensor:
        """Word rows fused with n-gram rows: [B, S, H]."""
        return self.fused(tokens, context.history(tokens))

    def fused(self, tokens: Tensor, history: History) -> Tensor:
        """The same for tokens among those before them."""
        words = self.embed_tokens(tokens)
        return words if self.ngram_embeddings is None else self.ngram_embeddings(words, history)

    def draft_start(self, trunk: Trunk) -> Tensor:
        """What the first draft step continues from: the trunk's state after or before its norm, as configured."""
        return trunk.output if self.config.mtp.chain == "post_norm" else trunk.hidden

    def routers(self) -> list[Router]:
        """The layers' routers, in order."""
        return [module for module in self.layers.modules() if isinstance(module, Router)]

    def logits(self, output: Tensor) -> Tensor:
        """Unembed final states: [..., H] -> [..., V]."""
        return self.lm_head(output)

    def draft(
        self,
        tokens: Tensor,
        previous: Tensor,
        context: Context,
        selection: Selection | None = None,
        history: History | None = None,
    ) -> Draft:
        """One step of the draft head, at every position.

        Args:
            tokens: int64 [B, S], at each position the token one place further than `previous` has seen.
            previous: [B, S, H], `draft_start` of the trunk (first step) or the last draft's `chained`.
            context: where the draft block's keys live.
            selection: the first step's selection, for later steps.
            history: `tokens` behind those before them, for n-gram hashing (`mtp.use_ngram`); `None` takes what the
                context remembers.
        """
        if self.mtp is None:
            raise ValueError("this model has no draft head (model.mtp.layers = 0)")
        return self.mtp(self.embed_drafted(tokens, context, history), previous, context, selection)

    def embed_drafted(self, tokens: Tensor, context: Context, history: History | None = None) -> Tensor:
        """What the draft block reads of tokens, as for `draft`: [B, S, H]."""
        if not self.config.mtp.use_ngram or self.ngram_embeddings is None:
            return self.embed_tokens(tokens)
        # A drafted token stands one place behind the position whose state it continues.
        return self.fused(tokens, context.history(tokens).moved(1) if history is None else history)


def shifted(tokens: Tensor, places: int, fill: int) -> Tensor:
    """tokens[:, i + places] at position i, `fill` past the end: int64 [B, S]."""
    return F.pad(tokens[:, places:], (0, min(places, tokens.shape[1])), value=fill)
