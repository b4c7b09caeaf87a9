"""Transient faults: a micro-batch of the step is computed twice, and the bits are compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from homegrown.parallel.assembly import Assembly
from homegrown.parallel.collectives import gather, gather_objects
from homegrown.parallel.groups import Group
from homegrown.train.corruption.fault import Suspicion, accuse
from homegrown.train.corruption.trace import Compute, Mark, Recorder, Trace
from homegrown.train.losses import PartOutput

CHECK = "a micro-batch computed twice"


class Twice:
    """Computes a micro-batch of a step a second time, after all of them, on all ranks together.

    Data, weights and order are the same, so every bit must be. Of the ranks whose results differ the one is named at
    which they differ first in the flow of data; what others got from it made theirs differ. In data parallelism alone
    ranks exchange nothing within a micro-batch, and there is nothing to be traced.

    The second pass leaves nothing behind: its gradients are dropped, its rows of the n-gram tables belong to no leaf,
    and what it routed is not counted. An interleaved pipeline goes through as many micro-batches again as it has
    stages, which is the least it can do.

    Args:
        assembly: of the model on this rank.
        world: all ranks.
    """

    def __init__(self, assembly: Assembly, world: Group) -> None:
        self._assembly, self._world = assembly, world

    def run(self, step: int, micros: int, forward: Compute, done: Callable[[int, int], None], again: Compute) -> None:
        """Forward and backward over the micro-batches of a step, and over some of them again.

        Args:
            step: number of the step; it decides which ones.
            micros, forward, done: as for `Pipeline.run`.
            again: computes a part as `forward` does, and notes nothing.

        Raises:
            CorruptionError: on all ranks, if the bits of any of them differ.
        """
        pipeline, parts = self._assembly.pipeline, self._assembly.parts
        chosen = self._choose(step, micros)
        first, second, recorder = Trace(), Trace(), Recorder()

        def watched(part: int, micro: int, hidden: Tensor | None) -> PartOutput:
            if micro not in chosen:
                return forward(part, micro, hidden)
            return recorder.forward(first, forward, part, micro, hidden)

        def finished(part: int, micro: int) -> None:
            if micro in chosen:
                first.note_gradients(micro, part, parts[part].model.named_parameters())
            done(part, micro)

        def repeated(part: int, index: int, hidden: Tensor | None) -> PartOutput:
            return recorder.forward(second, again, part, chosen[index], hidden)

        def dropped(part: int, index: int) -> None:
            model = parts[part].model
            second.note_gradients(chosen[index], part, model.named_parameters())
            for parameter in model.parameters():
                parameter.grad = None

        with recorder.ready():
            pipeline.run(micros, watched, finished)
            with rehearsing(self._assembly):
                pipeline.run(len(chosen), repeated, dropped)
        self._judge(step, first.first_difference(second))

    def _choose(self, step: int, micros: int) -> range:
        """Any micro-batch, another one each time."""
        layout = self._assembly.layout
        count = layout.pp if layout.parts > 1 else 1
        start = random.Random(step).randrange(micros // count) * count
        return range(start, start + count)

    def _judge(self, step: int, found: tuple[Mark, str] | None) -> None:
        row = torch.tensor([1, *found[0]] if found else [0] * 5)
        rows: Sequence[list[int]] = gather(row, self._world).tolist()
        marks = {rank: Mark(*row[1:]) for rank, row in enumerate(rows) if row[0]}
        if marks:
            names = gather_objects(found[1] if found else "", self._world)
            earliest = min(marks.values())
            what = f"came out otherwise when it was computed again{_others(marks, earliest)}"
            suspects = {rank: Suspicion(names[rank], what) for rank, mark in marks.items() if mark == earliest}
            accuse(step, CHECK, suspects, self._world)


def _others(marks: dict[int, Mark], earliest: Mark) -> str:
    later = sorted(rank for rank, mark in marks.items() if mark != earliest)
    if not later:
        return ""
    shown = ", ".join(map(str, later[:8])) + (", ..." if len(later) > 8 else "")
    return f" (later in the flow of data also on rank{'s' if len(later) > 1 else ''} {shown})"


@contextmanager
def rehearsing(assembly: Assembly) -> Iterator[None]:
    """Passes within the block leave no trace in the assembly."""
    arrived = [(dispatcher.arrived, tuple(dispatcher.arrived)) for dispatcher in assembly.dispatchers]
    assembly.begin_leaf(None)
    try:
        yield
    finally:
        for queue, before in arrived:
            queue.clear()
            queue.extend(before)
