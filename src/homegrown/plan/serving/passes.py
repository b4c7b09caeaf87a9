"""Seconds of one pass of an instance through the model: all layers, embedding, head, and the draft head's guesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from homegrown.plan.facts import Shape
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.layer import Pass, Span, layer_time
from homegrown.plan.serving.links import all_reduce, all_to_all
from homegrown.plan.serving.setup import WIDTH, Pool, Precision, Speculation

PARTS = ("attention", "core", "indexer", "dense", "experts", "collectives", "traffic", "head", "draft", "overhead")
"""What the seconds of a pass are split into, in the order of tables and plots."""


def pass_parts(clock: Clock, work: Pass) -> dict[str, float]:
    """Seconds by part of one pass, without drafting and the engine's overhead; traffic is what nothing hides."""
    batches = (work.pool.micro_batches,) if work.pool.micro_batches else (1, 2) if _sends(work) else (1,)
    parts = min((_layers(clock, work, number) for number in batches), key=lambda parts: sum(parts.values()))
    parts["head"] = _ends(clock, work)
    return parts


def _layers(clock: Clock, work: Pass, batches: int) -> dict[str, float]:
    """Seconds by part of all layers, in so many micro-batches.

    With two of them all that one computes may hide what the other sends; with one, only the window of a
    shortcut-connected layer.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    part = work if batches == 1 else replace(work, spans=[half(span) for span in work.spans])
    for group in work.shape.layers:
        time = layer_time(clock, part, group)
        for name in ("attention", "core", "indexer", "dense", "experts", "collectives"):
            parts[name] += group.count * batches * getattr(time, name)
        window = time.computing if work.pool.overlap and batches == 2 else time.window
        parts["traffic"] += group.count * batches * max(time.sent - window, 0.0)
    return parts


def _sends(work: Pass) -> bool:
    return work.pool.overlap and work.pool.exchange == "dispatch" and work.pool.experts_over > 1


def half(span: Span) -> Span:
    """One of two micro-batches: half of the requests, or half of the tokens of a single one."""
    if span.requests > 1:
        return replace(span, requests=span.requests / 2)
    return replace(span, queries=max(span.queries / 2, 1.0))


def draft_seconds(clock: Clock, work: Pass, speculation: Speculation) -> float:
    """Seconds of the guesses of a step, one after the other: merge, layer and head for each request's last token."""
    shape = work.shape
    if shape.draft is None or not speculation.steps:
        return 0.0
    one = replace(work, spans=[replace(span, queries=1.0) for span in work.spans])
    time = layer_time(clock, one, shape.draft)
    layer = shape.draft.count * (time.computing + time.sent)
    merge = clock.product(one.rows, 2 * shape.hidden, shape.hidden, work.precision.weights)
    return speculation.steps * (layer + merge + _head(clock, one, one.rows))


def decode_parts(
    clock: Clock,
    shape: Shape,
    pool: Pool,
    precision: Precision,
    speculation: Speculation,
    contexts: Sequence[tuple[float, float]],
    batch: float,
    uneven: float = 0.0,
) -> dict[str, float]:
    """Seconds by part of a decode step.

    Args:
        contexts: shares of the requests and the keys that each sees.
        batch: requests of each group.
        uneven: deviation over mean of the requests' lengths.
    """
    queries = 1.0 + speculation.steps
    spans = [Span(batch * share, queries, keys) for share, keys in contexts]
    work = Pass(shape, pool, precision, spans, uneven)
    parts = pass_parts(clock, work)
    parts["draft"] = draft_seconds(clock, work, speculation)
    parts["overhead"] = clock.constants.step_overhead
    return parts


def _ends(clock: Clock, work: Pass) -> float:
    """Seconds of embedding, n-gram tables and head; in prefill only the last token of a request has logits."""
    shape, rows, tp = work.shape, work.rows, work.pool.tp
    size = WIDTH["bf16"] * shape.hidden
    seconds = clock.stream(2 * rows * size) + (all_reduce(clock, tp, rows * size) if tp > 1 else 0.0)
    if shape.ngram_tables:
        found = shape.ngram_tables * shape.ngram_width * WIDTH[work.precision.table_weights]
        own = rows / tp
        seconds += all_to_all(clock, work.pool.devices, own * found, own * shape.ngram_tables)
        seconds += clock.product(rows, shape.ngram_tables * shape.ngram_width / tp, shape.hidden, "bf16")
        seconds += all_reduce(clock, tp, rows * size) if tp > 1 else 0.0
    logits = sum(span.requests * min(span.queries, 16.0) for span in work.spans)
    return seconds + _head(clock, work, logits)


def _head(clock: Clock, work: Pass, rows: float) -> float:
    return clock.product(rows, work.shape.hidden, work.shape.vocab / work.pool.tp, "bf16")
