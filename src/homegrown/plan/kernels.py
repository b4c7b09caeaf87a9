"""What one device executes for one micro-batch, to be timed by a roofline: layers, and what stands at both ends."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from homegrown.plan.facts import Shape
from homegrown.plan.kernel import Cut, Kernel, Kernels, Kind, Recorder, cut_of
from homegrown.plan.layer_kernels import layer_kernels, write_layer, write_norm
from homegrown.plan.layout import Layout
from homegrown.plan.parts import Part, parts_of

__all__ = ["Cut", "Kernel", "Kernels", "Kind", "cut_of", "part_kernels", "stage_kernels", "total"]


def stage_kernels(shape: Shape, layout: Layout, stage: int) -> tuple[tuple[int, Kernels], ...]:
    """What a device of a stage executes for one micro-batch, all its pipeline parts together: how often, and what.

    Communication, the optimizer and the experts' uneven load are not in it.

    Raises:
        ConfigError: `layout.layers` does not fit the model.
    """
    return tuple(entry for part in parts_of(shape, layout, stage) for entry in part_kernels(shape, layout, part))


def part_kernels(shape: Shape, layout: Layout, part: Part) -> tuple[tuple[int, Kernels], ...]:
    """What a pipeline part executes for one micro-batch: how often, and what."""
    blocks = _blocks(shape, cut_of(layout))
    found = [(count, kernels) for count, kernels in zip(part.layers, blocks[1:-1], strict=True) if count]
    return (*([(1, blocks[0])] if part.first else ()), *found, *([(1, blocks[-1])] if part.last else ()))


@lru_cache(maxsize=4096)
def _blocks(shape: Shape, cut: Cut) -> tuple[Kernels, ...]:
    """The embedding, one layer of each kind, and the end."""
    layers = (
        layer_kernels(shape, group, Recorder(cut), f"layer {kind}" if kind else "layer")
        for kind, group in enumerate(shape.layers)
    )
    return (_embedding(shape, cut), *layers, _end(shape, cut))


def _embedding(shape: Shape, cut: Cut) -> Kernels:
    """Rows of words, of positions and of n-grams. Nothing of it is done again."""
    pen = Recorder(cut._replace(recompute="none"))
    hidden, own = shape.hidden, cut.own
    # A device writes rows for all tokens of its group, zeros where others hold the word; gradients are summed in
    # float32 into the rows that are here.
    rows = 2.0 * (cut.tokens / cut.tp + cut.tokens) * hidden
    pen.memory("words", "word embedding", rows, 10.0 * cut.tokens / cut.tp * hidden, kind="lookup")
    if shape.positions:
        pen.memory("positions", "word embedding", 6.0 * own * hidden, 10.0 * own * hidden)
    if shape.dropout:
        pen.memory("dropout", "word embedding", 5.0 * own * hidden, 5.0 * own * hidden)
    if shape.ngram_tables:
        numbers = cut.routed * shape.ngram_tables * shape.ngram_width
        pen.memory("n-gram rows", "n-gram tables", 4.0 * numbers, 10.0 * numbers, kind="lookup")
        pen.product(
            "n-gram projection", "n-gram projections", cut.routed, shape.ngram_tables * shape.ngram_width, hidden,
            dtype="bf16",
        )  # fmt: skip
        pen.memory("fusion", "n-gram projections", 6.0 * cut.routed * hidden, 4.0 * cut.routed * hidden)
    return pen.done("embedding")


def _end(shape: Shape, cut: Cut) -> Kernels:
    """The final norm, the head and the loss; then the draft head, step by step. Only the draft block's own kernels are
    recomputed."""
    pen = Recorder(cut)
    _write_head(pen, shape, "head")
    again: tuple[Kernel, ...] = ()
    draft = shape.draft
    for step in range(shape.draft_steps if draft is not None else 0):
        assert draft is not None  # for the type checker
        pen.memory("words", "draft head", 4.0 * cut.own * shape.hidden, 10.0 * cut.own * shape.hidden, kind="lookup")
        write_norm(pen, shape, "norms before merging")
        write_norm(pen, shape, "norms before merging")
        pen.product("merge", "draft head", cut.own, 2 * shape.hidden, shape.hidden)
        block = Recorder(cut)
        write_layer(block, shape, draft, selects=not step)
        done = block.done("draft block")
        again += done.again
        pen.forward += done.forward
        pen.backward += reversed(done.backward)
        _write_head(pen, shape, "draft head")
    return Kernels("end", tuple(pen.forward), tuple(reversed(pen.backward)), again)


def _write_head(pen: Recorder, shape: Shape, part: str) -> None:
    cut = pen.cut
    write_norm(pen, shape, "final norm")
    columns = shape.vocab / cut.tp
    pen.product("logits", part, cut.tokens, shape.hidden, columns, dtype=max("bf16", cut.precision, key=_width))
    # Fused: read for the sum, read again and written as gradients. Else: widened, exponentials written, read again.
    logits = cut.tokens * columns
    pen.memory("cross-entropy", part, (6.0 if cut.fused else 18.0) * logits, (2.0 if cut.fused else 10.0) * logits)


def _width(dtype: str) -> float:
    return {"fp32": 4.0, "bf16": 2.0}.get(dtype, 1.0)


def total(kernels: Iterable[tuple[int, Kernels]]) -> tuple[float, float]:
    """FLOPs and bytes of counted kernels, both passes and recomputation."""
    flops = moved = 0.0
    for count, group in kernels:
        for kernel in group:
            flops += count * kernel.flops
            moved += count * kernel.bytes
    return flops, moved
