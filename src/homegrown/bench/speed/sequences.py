"""Sequences in the middle of being decoded, behind contexts that nobody had to compute: their keys are random.

Every decoder here begins each turn at the same context and writes its new keys over those of the turn before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from homegrown.bench.speed.models import random_tokens
from homegrown.bench.speed.work import Chosen, chosen, joined
from homegrown.generate.decode import as_row, empty_cache, extend, last_logits
from homegrown.model import Cache, Longcat
from homegrown.model.attention import LatentAttention
from homegrown.serve.engine.batch import Batch, Segment, look_back
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.pages import PagePool
from homegrown.serve.engine.runner import Runner

PAGE = EngineOptions().page_size


class Keys:
    """Keys for every case: one pool of pages per precision, which all cases share.

    Args:
        models: ours, by precision.
        cases: batches and contexts.
        steps: decoded behind a context at a time.
        seed: of the numbers.

    Attributes:
        each: pages of a sequence, by context.
        tokens: int64 [B, S]: texts whose ends stand before the new tokens, and what is decoded first.
    """

    def __init__(self, models: dict[str, Longcat], cases: Sequence[tuple[int, int]], steps: int, seed: int) -> None:
        config = next(iter(models.values())).config
        self.each = {context: -(-(context + steps + 1) // PAGE) for _, context in cases}
        self._scale = _scale(next(iter(models.values())))
        pages = max(batch * self.each[context] for batch, context in cases)
        self._seed, self._pages, self._pools = seed, pages, dict[torch.dtype, PagePool]()
        self._config = config
        self.tokens = random_tokens(config, max(batch for batch, _ in cases), config.ngram.order + 1, seed)

    def pool(self, model: Longcat) -> PagePool:
        """The pages of models with activations of this dtype. Draft rows are not kept: nothing is drafted here."""
        if model.dtype not in self._pools:
            pool = PagePool(self._config, self._pages, PAGE, model.device, model.dtype, drafts=False)
            generator = torch.Generator().manual_seed(self._seed)
            for kind, buffers in pool.buffers.kinds:
                for buffer in buffers.values():
                    _fill(buffer, self._scale if kind == "latent" else 1.0, generator)
            self._pools[model.dtype] = pool
        return self._pools[model.dtype]

    def pages(self, row: int, context: int) -> list[int]:
        """The pages of one sequence of a case; page 0 belongs to nobody."""
        each = self.each[context]
        return list(range(1 + row * each, 1 + (row + 1) * each))

    def rows(self, model: Longcat, row: int, context: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """One sequence's keys side by side, per slot: [context, W] latent and index."""
        pool = self.pool(model)
        start = (1 + row * self.each[context]) * PAGE
        latent, index = (
            {slot: buffer[start : start + context] for slot, buffer in buffers.items()}
            for _, buffers in pool.buffers.kinds
        )
        return latent, index


class Served:
    """A batch of sequences as the engine runs them: one pass over their pages for each token.

    Args:
        model: ours.
        keys: where the contexts' keys are.
        batch: sequences.
        context: tokens before the first new one.
    """

    def __init__(self, model: Longcat, keys: Keys, batch: int, context: int) -> None:
        self.keys, self.batch, self.context = keys, batch, context
        self._model, self._runner = model, Runner(model, keys.pool(model))
        texts = keys.tokens[:batch].tolist()
        self._first = [text[-1] for text in texts]
        self._earlier = [look_back(model.config, text, len(text) - 1) for text in texts]
        self._pages = [keys.pages(row, context) for row in range(batch)]

    def logits(self) -> Tensor:
        """[B, V] of the first step."""
        return self._runner.forward(self._batch(0, [[token] for token in self._first]))

    def steps(self, count: int) -> None:
        """Decode greedily."""
        texts = [[token] for token in self._first]
        for step in range(count):
            best = self._runner.forward(self._batch(step, texts)).argmax(-1).tolist()
            for text, token in zip(texts, best, strict=True):
                text.append(token)

    def _batch(self, step: int, texts: list[list[int]]) -> Batch:
        order = max(self._model.config.ngram.order - 1, 0)
        segments = []
        for text, earlier, pages in zip(texts, self._earlier, self._pages, strict=True):
            before = [*earlier, *text[:-1]]
            segments.append(
                Segment(
                    tokens=text[-1:],
                    past=self.context + step,
                    pages=pages,
                    earlier=before[max(len(before) - order, 0) :],
                )
            )
        return Batch(segments=segments)


class Alone:
    """One sequence as `homegrown generate` runs it."""

    def __init__(self, model: Longcat, keys: Keys, context: int) -> None:
        self._model, self._context = model, context
        self._cache = _cache(model, keys, 0, context)
        self._first = int(keys.tokens[0, -1])

    def logits(self) -> Tensor:
        """[1, V] of the first step."""
        return self._step(self._first, 0)[None]

    def steps(self, count: int) -> None:
        """Decode greedily."""
        token = self._first
        for step in range(count):
            token = int(self._step(token, step).argmax())

    def _step(self, token: int, step: int) -> Tensor:
        self._cache.length = self._context + step
        return last_logits(self._model, extend(self._model, self._cache, as_row([token], self._model.device)).output)


def experts_chosen(model: Longcat, keys: Keys, batch: int, context: int) -> Chosen:
    """The experts of a case's first step, as routers report them, one sequence after the other."""
    parts = []
    for row in range(batch):
        cache = _cache(model, keys, row, context)
        parts.append(extend(model, cache, keys.tokens[row : row + 1, -1:].to(model.device)).routing)
    return chosen(model.config, joined(parts))


class PeerBatch:
    """The peer: one call for each token of a batch of equal length.

    Its cache holds what ours does, latents and rotated keys, but a rotated key's pairs of lanes stand half a width
    apart in it.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        model: Longcat,
        keys: Keys,
        batch: int,
        context: int,
        dtype: torch.dtype,
    ) -> None:
        from transformers import DynamicCache

        config = model.config
        self._call = call
        self._first = keys.tokens[:batch, -1:].to(model.device)
        self._cache: Any = DynamicCache()
        rows = [keys.rows(model, row, context)[0] for row in range(batch)]
        for slot in range(config.attention_sublayers):
            cells = torch.stack([row[slot] for row in rows]).to(dtype)[:, None]
            latent, rotated = cells.split((config.kv_lora_rank, config.qk_rope_head_dim), dim=-1)
            halves = torch.cat((rotated[..., 0::2], rotated[..., 1::2]), dim=-1)
            self._cache.update(latent.contiguous(), halves, slot)

    def logits(self) -> Tensor:
        """[B, V] of the first step."""
        logits = self._step(self._first)
        self._cache.crop(-1)
        return logits

    def steps(self, count: int) -> None:
        """Decode greedily, and forget it."""
        tokens = self._first
        for _ in range(count):
            tokens = self._step(tokens).argmax(-1, keepdim=True)
        self._cache.crop(-count)

    @torch.inference_mode()
    def _step(self, tokens: Tensor) -> Tensor:
        out = self._call(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = out.logits[:, -1]
        return logits


def _cache(model: Longcat, keys: Keys, row: int, context: int) -> Cache:
    """The keys of one sequence of a case as `homegrown generate` holds them, with room behind them."""
    cache = empty_cache(model, keys.each[context] * PAGE)
    for buffers, found in zip((cache.latent, cache.index), keys.rows(model, row, context), strict=True):
        for slot, cells in found.items():
            buffers[slot][0, :context] = cells
    earlier = keys.tokens[row, :-1][-context:]
    cache.tokens[0, context - len(earlier) : context] = earlier
    cache.length = context
    return cache


def _scale(model: Longcat) -> float:
    return next(module.key_scale for module in model.modules() if isinstance(module, LatentAttention))


def _fill(buffer: Tensor, scale: float, generator: torch.Generator) -> None:
    """Normal numbers, drawn on the host piece by piece so that every device and dtype has the same ones."""
    for part in buffer.view(-1).split(1 << 22):
        part.copy_(torch.randn(part.numel(), generator=generator).mul_(scale))
