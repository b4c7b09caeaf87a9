"""What one device executes for one micro-batch, to be timed by a roofline: layers, and what stands at both ends."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from homegrown.plan.facts import Layers, Shape
from homegrown.plan.kernel import Cut, Kernel, Kernels, Kind, Recorder, cut_of
from homegrown.plan.layer_kernels import write_layer
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


@lru_cache(maxsize=8192)
def _blocks(shape: Shape, cut: Cut) -> tuple[Kernels, ...]:
    """The embedding, one layer of each kind, and the end."""
    # What has no experts is the same wherever experts are.
    plain = cut._replace(ep=1, etp=1)
    layers = (_layer(shape, kind, cut if group.experts else plain) for kind, group in enumerate(shape.layers))
    routes = shape.draft is not None and shape.draft.experts is not None
    return (_embedding(shape, plain), *layers, _end(shape, cut if routes else plain))


@lru_cache(maxsize=8192)
def _layer(shape: Shape, kind: int, cut: Cut) -> Kernels:
    pen = Recorder(cut)
    write_layer(pen, shape, shape.layers[kind])
    return pen.done(f"layer of kind {kind}")


@lru_cache(maxsize=8192)
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
            dtype=pen.plain,
        )  # fmt: skip
        pen.memory("fusion", "n-gram projections", 6.0 * cut.routed * hidden, 4.0 * cut.routed * hidden)
    return pen.done("embedding")


@lru_cache(maxsize=8192)
def _end(shape: Shape, cut: Cut) -> Kernels:
    """The final norm, the head and the loss; then the draft head, step by step. Of these only the draft block is
    recomputed."""
    pen = Recorder(cut._replace(recompute="none"))
    _write_head(pen, shape, "head")
    again: list[Kernel] = []
    if shape.draft is not None:
        for step in range(shape.draft_steps):
            block = _draft_block(shape, shape.draft, cut, selects=not step)
            _write_merge(pen, shape)
            pen.forward += block.forward
            pen.backward += reversed(block.backward)
            again += block.again
            _write_head(pen, shape, "draft head")
    return Kernels("end", tuple(pen.forward), tuple(reversed(pen.backward)), tuple(again))


def _draft_block(shape: Shape, draft: Layers, cut: Cut, selects: bool) -> Kernels:
    pen = Recorder(cut, part="draft head")
    write_layer(pen, shape, draft, selects)
    return pen.done("draft block")


def _write_merge(pen: Recorder, shape: Shape) -> None:
    """A drafted token's row and the state before it, both normed, become one state."""
    own = pen.cut.own * shape.hidden
    pen.memory("words", "draft head", 4.0 * own, 10.0 * own, kind="lookup")
    pen.memory("norms before merging", "draft head", 8.0 * own, 16.0 * own)
    pen.product("merge", "draft head", pen.cut.own, 2 * shape.hidden, shape.hidden)


def _write_head(pen: Recorder, shape: Shape, part: str) -> None:
    cut = pen.cut
    norm = cut.own * shape.hidden
    pen.memory("final norm", "norms" if part == "head" else part, 4.0 * norm, 8.0 * norm)
    columns = shape.vocab / cut.tp
    pen.product("logits", part, cut.tokens, shape.hidden, columns, dtype=pen.plain)
    # Fused: read for the sum, read again and written as gradients. Else: widened, exponentials written, read again.
    logits = cut.tokens * columns
    pen.memory("cross-entropy", part, (6.0 if cut.fused else 18.0) * logits, (2.0 if cut.fused else 10.0) * logits)


def total(kernels: Iterable[tuple[int, Kernels]]) -> tuple[float, float]:
    """FLOPs and bytes of counted kernels, both passes and recomputation."""
    flops = moved = 0.0
    for count, group in kernels:
        for kernel in group:
            flops += count * kernel.flops
            moved += count * kernel.bytes
    return flops, moved
