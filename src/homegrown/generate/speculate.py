"""Self-speculative greedy decoding: the draft head proposes tokens, the model checks them all in one pass.

The result is that of greedy decoding, token for token. A draft is taken only if it is the argmax of the model's own
logits, so it remains that a pass of several rows must give the logits of as many passes of one row, and leave the same
keys behind. It does so to the last bit, by construction (`RowContext`, `ops.row_by_row`). A margin between the two best
logits would not do instead: a last bit may also send a token to another expert, or put another key into a selection,
and logits then differ by any amount. The first pass of a model is compared with single rows, so that a device on which
the construction fails is refused, not trusted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from homegrown import ops
from homegrown.generate.decode import as_row, empty_cache, extend, extend_natively, last_logits, prefill
from homegrown.generate.errors import GenerateError
from homegrown.generate.rows import RowContext
from homegrown.generate.sampling import greedy
from homegrown.model import Cache, CachedContext, Draft, History, Longcat
from homegrown.model.native import UNSCORED, Chosen, Keys, Rows, native
from homegrown.model.sparse import Selection


@dataclass
class Acceptance:
    """How drafting went.

    Attributes:
        passes: number of passes that checked drafts, by how many drafts they accepted.
        drafted: drafts checked in all.
    """

    passes: Counter[int] = field(default_factory=Counter)
    drafted: int = 0

    @property
    def accepted(self) -> int:
        """Drafts accepted in all; each pass adds one token of its own to these."""
        return sum(count * passes for count, passes in self.passes.items())


def speculate(
    model: Longcat, prompt: Sequence[int], limit: int, chunk: int, acceptance: Acceptance | None = None
) -> Iterator[int]:
    """At most `limit` tokens behind a prompt: those of greedy decoding (`decode`), in fewer passes.

    Args:
        model: with a draft head, which is asked for `config.mtp.steps` drafts at a time.
        prompt: token ids, at least one.
        limit: tokens at most; nothing else ends the iteration.
        chunk: prompt tokens in one pass.
        acceptance: is told how each pass went.

    Raises:
        GenerateError: a pass of several rows differs from single rows on this device.
    """
    acceptance = Acceptance() if acceptance is None else acceptance
    cache = empty_cache(model, len(prompt) + limit)
    row = as_row(prompt, cache.tokens.device)
    drafter = Drafter(model, cache, row)
    states, token = _prefill(model, cache, drafter, row, chunk)
    tokens = [token]
    left = limit - 1
    yield from tokens
    while left:
        drafts = drafter.propose(states, tokens, min(model.config.mtp.steps, left - 1))
        states, verdict = _check(model, cache, [tokens[-1], *drafts])
        agreed = next((at for at, draft in enumerate(drafts) if draft != verdict[at]), len(drafts))
        states, tokens = states[:, : agreed + 1], verdict[: agreed + 1]
        cache.length += len(tokens)
        if drafts:
            acceptance.passes[agreed] += 1
            acceptance.drafted += len(drafts)
        left -= len(tokens)
        yield from tokens


def _prefill(model: Longcat, cache: Cache, drafter: Drafter, prompt: Tensor, chunk: int) -> tuple[Tensor, int]:
    """Run a prompt through model and draft block.

    Returns:
        [1, 1, H] the state behind the prompt's last token, from which drafts go on; the token that follows it.
    """
    start = 0
    for trunk in prefill(model, cache, prompt, chunk):
        states = model.draft_start(trunk)
        # What stands behind the prompt's last token is not known yet.
        behind = prompt[:, start + 1 : cache.length + 1]
        if behind.shape[1]:
            drafter.absorb(states[:, : behind.shape[1]], behind)
        start = cache.length
    return states[:, -1:], int(greedy(last_logits(model, trunk.output)))


class Drafter:
    """The draft head of a model at work on one sequence.

    Its cache keeps one row, at position i, for each state h_i of the model and the token x_{i+1} behind it. The rows of
    further draft steps, made from the head's own states, stand behind these until the next proposal.

    Args:
        model: with a draft head.
        cache: the model's. The draft block's slot in it is used, with a length and tokens of its own.
        prompt: int64 [1, S].
    """

    def __init__(self, model: Longcat, cache: Cache, prompt: Tensor) -> None:
        self._model, slot = model, model.config.attention_sublayers
        index = {slot: cache.index[slot]} if slot in cache.index else {}
        self._cache = Cache({slot: cache.latent[slot]}, index, torch.full_like(cache.tokens, -1))
        self._cache.tokens[:, 0] = prompt[:, 0]
        self._dtype = cache.latent[slot].dtype

    def absorb(self, states: Tensor, tokens: Tensor) -> None:
        """Add rows of a prompt: states [1, S, H] of the model and the tokens behind them, int64 [1, S]."""
        self._step(states, tokens, self._cache.length, prefill=True)
        self._cache.length += tokens.shape[1]

    def propose(self, states: Tensor, tokens: Sequence[int], count: int) -> list[int]:
        """Draft the `count` tokens that follow `tokens`.

        Args:
            states: [1, S, H] the newest states of the model.
            tokens: the S tokens behind them.
            count: draft steps; none leaves everything as it is.
        """
        drafts: list[int] = []
        if not count:
            return drafts
        start = self._cache.length
        draft = self._step(states, as_row(tokens, states.device), start)
        self._cache.length = start = start + len(tokens)
        first = draft.selection
        drafts.append(int(greedy(last_logits(self._model, draft.output))))
        for past in range(start, start + count - 1):
            row = as_row(drafts[-1:], states.device)
            draft = self._step(draft.chained[:, -1:], row, past, _reused(first, start, past))
            drafts.append(int(greedy(last_logits(self._model, draft.output))))
        return drafts

    @torch.inference_mode()
    def _step(
        self, states: Tensor, tokens: Tensor, past: int, reused: Selection | None = None, prefill: bool = False
    ) -> Draft:
        """One step of the head: rows for states [1, S, H] and the tokens behind them, from position `past` on."""
        config, count = self._model.config, tokens.shape[1]
        self._cache.tokens[:, past + 1 : past + 1 + count] = tokens
        earlier = self._cache.tokens[:, max(past + 2 - config.ngram.order, 0) : past + 1]
        context = CachedContext(config, self._cache, count, self._dtype, past, prefill)
        side = None if prefill else native(self._model, look=False)
        # A drafted token stands one place behind the position whose state it continues.
        history = History.after(earlier, tokens, context.span.positions + 1)
        if side is None:
            return self._model.draft(tokens, states, context, reused, history)
        embedded = self._model.embed_drafted(tokens, context, history)
        keys = Keys(self._cache.latent, self._cache.index, self._cache.capacity)  # one page: cells are positions
        draft, chosen = side.draft(embedded, states, [Rows(past, count, [0])], keys, _given(reused))
        positions = chosen.cells[None] if chosen.counts[-1] else None
        return draft._replace(selection=Selection(positions, UNSCORED))


def _given(reused: Selection | None) -> Chosen | None:
    """The choice for the one row of a later step."""
    if reused is None:
        return None
    if reused.positions is None:
        return Chosen(torch.empty(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    cells = reused.positions[0].contiguous()
    return Chosen(cells, torch.full((1,), cells.shape[1]))


def _reused(first: Selection | None, start: int, last: int) -> Selection | None:
    """The first step's choice for its newest row, for a later step; that step's and earlier later steps' own rows,
    start..last, are newer than the choice and join it, as the newest keys always do."""
    if first is None or first.positions is None:
        return first
    own = torch.arange(start, last + 1, device=first.positions.device).view(1, 1, -1)
    return Selection(torch.cat((first.positions[:, -1:], own), dim=-1), first.index)


@torch.inference_mode()
def _check(model: Longcat, cache: Cache, tokens: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Run tokens behind those in the cache, whose length stays.

    Returns:
        [1, S, H] the states from which drafts go on; the token that follows each of `tokens`.
    """
    row, side = as_row(tokens, cache.tokens.device), native(model)
    if side is not None:
        trunk = extend_natively(side, model, cache, row)
        logits = side.logits(trunk.output)
    else:
        context = RowContext(model.config, cache, len(tokens), cache.latent[0].dtype)
        with ops.row_by_row():
            trunk = model.trunk(row, context)
            logits = model.logits(trunk.output)
    if len(tokens) > 1 and _compared.get(model) != (logits.device, model.dtype):
        _compare(model, cache, tokens, logits)
        _compared[model] = (logits.device, model.dtype)
    return model.draft_start(trunk), greedy(logits)[0].tolist()


_compared: WeakKeyDictionary[nn.Module, tuple[torch.device, torch.dtype]] = WeakKeyDictionary()
"""Where each model's passes of several rows have been found equal to single rows."""


def _compare(model: Longcat, cache: Cache, tokens: Sequence[int], logits: Tensor) -> None:
    """Run the same tokens one by one; refuse if a logit or a key is not the same.

    Args:
        model, cache, tokens: as they were for the pass.
        logits: [1, S, V] its result.
    """
    length = cache.length
    together = _keys(cache, length, length + len(tokens))
    rows = [last_logits(model, extend(model, cache, as_row([token], logits.device)).output) for token in tokens]
    cache.length = length
    alone = _keys(cache, length, length + len(tokens))
    if torch.equal(logits[0], torch.stack(rows)) and all(map(torch.equal, together, alone)):
        return
    raise GenerateError(
        f"speculation: on {logits.device} in {str(model.dtype).removeprefix('torch.')} a pass of {len(tokens)} tokens "
        "differs from single ones, so the text would not be that of greedy decoding; generate without speculation"
    )


def _keys(cache: Cache, start: int, stop: int) -> list[Tensor]:
    return [buffer[:, start:stop].clone() for buffer in (*cache.latent.values(), *cache.index.values())]
