"""One very long prompt with sparse attention: what a token costs as the text grows, and what choosing its keys does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from homegrown import device as devices
from homegrown.bench.interleave import Tick
from homegrown.bench.record import Spread, origin
from homegrown.bench.speed.limits import Limits, floor
from homegrown.bench.speed.models import Subject, ours, random_tokens, subject
from homegrown.bench.speed.prefill import PrefillPlan
from homegrown.bench.speed.record import OURS, SCHEMA, SpeedEntry, SpeedRecord
from homegrown.bench.speed.work import FORMULA, Chosen, chosen, prefill_work, weights_of
from homegrown.config import to_table
from homegrown.generate.decode import empty_cache, last_logits, prefill
from homegrown.model import Longcat, count
from homegrown.model.sparse import Indexer
from homegrown.ops.registry import wrapping


def run_long(
    plan: PrefillPlan,
    device: torch.device,
    argv: Sequence[str] = (),
    tick: Tick = lambda label: None,
    keeps_memory: bool = False,
    limits: Limits | None = None,
) -> SpeedRecord:
    """Read one prompt of the longest of `plan.tokens`, and note time and memory when each of them is reached: a prompt
    of that length would have ended there. Limits are measured between chunks."""
    tick("setting up")
    who = subject(plan.shape, plan.model, device, max(plan.tokens), plan.seed)
    models = ours(who.model, plan.precisions)
    limits = limits or Limits(device)
    seen: dict[tuple[str, int], list[_Mark]] = {}
    used, order = Chosen(0, 0), []
    for number in range(plan.repetitions):
        for mode, model in models.items():
            _measure_limits(limits)
            order.append(mode)
            for tokens, mark, routed in _read(model, plan, plan.seed + number, _telling(tick, mode)):
                seen.setdefault((mode, tokens), []).append(mark)
                used = routed
    _measure_limits(limits)
    measured = limits.spreads(0)
    entries = [_entry(who, models[mode], mode, tokens, marks, used, measured) for (mode, tokens), marks in seen.items()]
    counted = count(who.config)
    return SpeedRecord(
        kind="prefill-long",
        schema=SCHEMA,
        origin=origin(device, argv, keeps_memory, []),
        shape={
            "name": who.name,
            "model": to_table(who.config),
            "parameters": {"total": counted.total, "active": round(counted.active(used.per_token))},
            "chunk": plan.chunk,
        },
        limits=measured,
        order=order,
        warmup=0,
        repetitions=plan.repetitions,
        entries=entries,
        formula=FORMULA,
        notes=[
            "one prompt of the longest length; figures of a shorter one are those at the moment it would have ended",
            "indexer: its own products and the choice of keys (ops.select), timed where they are called",
            "peak memory is that of the process so far, weights in every precision that is measured included",
        ],
    )


def count_long(plan: PrefillPlan) -> int:
    """How often `run_long` calls its `tick`."""
    return 1 + plan.repetitions * len(plan.precisions) * -(-max(plan.tokens) // plan.chunk)


def _telling(tick: Tick, mode: str) -> Callable[[int], None]:
    return lambda at: tick(f"{mode}, to {at:,}")


class _Mark:
    """Where a prompt stood when some length was reached: seconds so far, and the processor's; of these the indexer's;
    bytes."""

    def __init__(self, seconds: float, processor: float, indexer: float, memory: int) -> None:
        self.seconds, self.processor, self.indexer, self.memory = seconds, processor, indexer, memory


def _measure_limits(limits: Limits) -> None:
    for turn in limits.turns.values():
        turn()


def _read(
    model: Longcat, plan: PrefillPlan, seed: int, tell: Callable[[int], None]
) -> Iterator[tuple[int, _Mark, Chosen]]:
    """Read one prompt; yields at each wanted length."""
    device, longest = model.device, max(plan.tokens)
    prompt = random_tokens(model.config, 1, longest, seed).to(device)
    cache = empty_cache(model, longest)
    seconds = processor = 0.0
    with _timing_indexer(model, device) as spent:
        stops = sorted({*plan.tokens, *range(plan.chunk, longest + plan.chunk, plan.chunk)} & set(range(longest + 1)))
        for start, stop in zip([0, *stops], stops, strict=False):
            tell(stop)
            devices.synchronize(device)
            began, processor_began = time.perf_counter(), time.process_time()
            trunk = next(prefill(model, cache, prompt[:, start:stop], stop - start))
            if stop in plan.tokens:
                last_logits(model, trunk.output)
            devices.synchronize(device)
            seconds += time.perf_counter() - began
            processor += time.process_time() - processor_began
            if stop in plan.tokens:
                mark = _Mark(seconds, processor, spent[0], devices.peak_memory(device))
                yield stop, mark, chosen(model.config, trunk.routing)


@contextmanager
def _timing_indexer(model: Longcat, device: torch.device) -> Iterator[list[float]]:
    """Adds up seconds spent in indexers and in choosing keys, in a list of one number."""
    spent = [0.0]

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            devices.synchronize(device)
            began = time.perf_counter()
            result = work(*args, **kwargs)
            devices.synchronize(device)
            spent[0] += time.perf_counter() - began
            return result

        return run

    indexers = [module for module in model.modules() if isinstance(module, Indexer)]
    for module in indexers:
        module.forward = timed(module.forward)  # type: ignore[method-assign]
    try:
        with wrapping("timed", select=timed):
            yield spent
    finally:
        for module in indexers:
            del module.forward


def _entry(
    who: Subject, model: Longcat, mode: str, tokens: int, marks: list[_Mark], used: Chosen, limits: dict[str, Spread]
) -> SpeedEntry:
    seconds = Spread.of([mark.seconds for mark in marks])
    work = prefill_work(who.config, weights_of(model), tokens, used)
    least = floor(work.flops, work.bytes, model.dtype, limits)
    keys = empty_cache(model, 1)
    cell = sum(buffer.numel() * buffer.element_size() for buffer in (*keys.latent.values(), *keys.index.values()))
    return SpeedEntry(
        case=f"{tokens:,} tokens",
        sizes={"tokens": tokens},
        implementation=OURS,
        mode=mode,
        seconds=seconds,
        processor_seconds=Spread.of([mark.processor for mark in marks]),
        tokens_per_s=tokens / seconds.median,
        floor=least,
        share=least.seconds / seconds.median,
        extra={
            "ms_per_token": seconds.median / tokens * 1e3,
            "indexer_share": Spread.of([mark.indexer / mark.seconds for mark in marks]).median,
            "peak_memory_bytes": float(max(mark.memory for mark in marks)),
            "key_bytes": float(cell * tokens),
        },
    )
