"""A model whose parts lie on several processes, which all call it with the same rows and get the same results."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from homegrown import ops
from homegrown.config import DataConfig, ModelConfig, ParallelConfig
from homegrown.config.blocks import TABLE_BLOCKS, row_blocks
from homegrown.model import Draft, History, Longcat, Trunk
from homegrown.model.layers import RMSNorm
from homegrown.model.ngram import table_sizes
from homegrown.model.router import Routing
from homegrown.model.sparse import Selection
from homegrown.parallel.assembly import mixtures
from homegrown.parallel.collectives import all_gather, gather
from homegrown.parallel.experts import expert_dispatcher
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout, settle
from homegrown.parallel.rows import row_exchange
from homegrown.parallel.tensor import shard_tensors
from homegrown.serve.engine.context import PagedContext
from homegrown.serve.spread.context import SpreadContext
from homegrown.serve.spread.shares import Share
from homegrown.serve.worker.protocol import world_size

# Shape suffixes: N rows of the pass, n own rows, H hidden, V words.


def ranks_of(config: ModelConfig, tp: int, ep: int) -> Layout:
    """Who is who in a replica: the fewest ranks that tensor and expert parallelism both fit on, tp innermost.

    Ranks beyond tp share rows as context parallelism does, but in plain slices. Experts and n-gram tables fold over
    all ranks.

    Raises:
        ConfigError: the model does not divide; the message says what would do.
    """
    world = world_size(tp, ep)
    spread = min(world, _blocks(config)) if config.ngram.order else 1
    embp = max(size for size in range(1, spread + 1) if world % size == 0)
    return settle(ParallelConfig(tp=tp, cp=world // tp, ep=ep, embp=embp), world, config, DataConfig())


def _blocks(config: ModelConfig) -> int:
    """The most ranks that n-gram rows spread over."""
    rows = sum(table_sizes(config.ngram, config.vocab_size))
    return len(row_blocks(rows, config.hidden_size // config.ngram.tables, TABLE_BLOCKS)) - 1


class SpreadModel:
    """Implements `Served` on the shards of one rank.

    All ranks call the same methods with the same arguments in the same order. Between blocks each has its own slice of
    the rows; what comes out is gathered, and equal on all ranks.

    Args:
        part: the rank's shards (`load_shards`); it is wired to the other ranks, in place.
        groups: the rank's.
    """

    def __init__(self, part: Longcat, groups: Groups) -> None:
        self.config: ModelConfig = part.config
        self._part, self._groups = part, groups
        for mixture in mixtures(part).values():
            mixture.dispatcher = expert_dispatcher(groups, part.config)
        if part.ngram_embeddings is not None and groups["embp"].size > 1:
            part.ngram_embeddings.lookup = row_exchange(groups, part.config)
        shard_tensors(part, groups["tp"])

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        return self._part.dtype

    @property
    def device(self) -> torch.device:
        """This rank's."""
        return self._part.device

    @property
    def norm(self) -> RMSNorm:
        """The final norm, which is whole on every rank."""
        return self._part.norm

    def trunk(self, tokens: Tensor, context: PagedContext) -> Trunk:
        """int64 [1, N] -> states of all rows."""
        share = self._share(tokens)
        ours = self._part.trunk(self._own(tokens, share), self._view(context, tokens, share))
        output = self._every(ours.output, share)
        hidden = self._every(ours.hidden, share) if self._continues_before_norm else output
        return Trunk(hidden, output, self._routing(ours.routing, share), ())

    @property
    def _continues_before_norm(self) -> bool:
        """Whether anybody reads the states before the final norm."""
        return self.config.mtp.chain != "post_norm"

    def draft_start(self, trunk: Trunk) -> Tensor:
        """As in `Longcat`."""
        return self._part.draft_start(trunk)

    def logits(self, output: Tensor) -> Tensor:
        """[1, M, H] -> [1, M, V]: every rank scores its words."""
        return all_gather(ops.linear(output, self._part.lm_head.weight), self._groups["tp"], -1)

    def draft(
        self,
        tokens: Tensor,
        previous: Tensor,
        context: PagedContext,
        selection: Selection | None = None,
        history: History | None = None,
    ) -> Draft:
        """As in `Longcat`, on all rows."""
        share = self._share(tokens)
        view = self._view(context, tokens, share)
        own_history = None if history is None else view.own_of(history)
        ours = self._part.draft(self._own(tokens, share), self._own(previous, share), view, selection, own_history)
        output = self._every(ours.output, share)
        chained = self._every(ours.chained, share) if self._continues_before_norm else output
        return Draft(output, chained, ours.selection, ())

    def _share(self, tokens: Tensor) -> Share:
        return Share(tokens.shape[1], self._groups.layout, self._groups.rank)

    def _view(self, context: PagedContext, tokens: Tensor, share: Share) -> SpreadContext:
        return SpreadContext(context, tokens, share, self._groups)

    def _own(self, x_1N: Tensor, share: Share) -> Tensor:
        """This rank's rows, zeros where these fill up: [1, n, ...]."""
        filling = (0, 0) * (x_1N.ndim - 2) + (0, share.padded - share.count)
        return F.pad(x_1N, filling)[:, share.own.start : share.own.stop]

    def _every(self, x_1n: Tensor, share: Share) -> Tensor:
        """All ranks' rows: [1, N, ...]."""
        return all_gather(x_1n, self._groups["sequence"], 1)[:, : share.count]

    def _routing(self, ours: tuple[Routing, ...], share: Share) -> tuple[Routing, ...]:
        """Which experts all rows chose; the rest is left as it is here."""
        if not ours:
            return ours
        chosen = gather(torch.stack([routing.index_NK for routing in ours], dim=1), self._groups["sequence"])
        layers = chosen.flatten(0, 1)[: share.count].unbind(1)
        return tuple(routing._replace(index_NK=index) for routing, index in zip(ours, layers, strict=True))
