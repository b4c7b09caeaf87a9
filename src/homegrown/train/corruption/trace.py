"""Local results of a pass over a micro-batch, in the order in which data flow through it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from homegrown.ops.registry import OPS, Implementation, wrapping
from homegrown.train.corruption.fingerprint import fingerprint
from homegrown.train.losses import PartOutput

_RESULTS = 16
"""More tensors than any op takes or gives."""
_LATE = 1 << 40
"""Place of what a pass ends with."""

Compute = Callable[[int, int, Tensor | None], PartOutput]
"""(part, micro-batch, hidden state from the part before) -> what the part makes of it."""


class Mark(NamedTuple):
    """A place in the flow of data: a later one depends on earlier ones, also on those of other ranks.

    Ranks of a pipeline stage do the same things in the same order, so that their marks can be compared.

    Attributes:
        micro: number of the micro-batch.
        backward: 0 forward, 1 backward.
        part: of the model; negative backward, where data flow from the last part to the first.
        place: within the pass.
    """

    micro: int
    backward: int
    part: int
    place: int


@dataclass
class Trace:
    """Fingerprints of local results.

    Attributes:
        prints: int64 scalar tensors, by place.
        names: what they are of.
    """

    prints: dict[Mark, Tensor] = field(default_factory=dict)
    names: dict[Mark, str] = field(default_factory=dict)

    def note(self, mark: Mark, name: str, tensor: Tensor) -> None:
        """Add a result."""
        self.prints[mark], self.names[mark] = fingerprint(tensor), name

    def note_gradients(self, micro: int, part: int, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Add what the backward pass left in parameters, the last results of a micro-batch."""
        for number, (name, parameter) in enumerate(parameters):
            if parameter.grad is not None:
                mark = Mark(micro, 1, -part, _LATE + number)
                self.note(mark, f"gradient of {name} in micro-batch {micro}", parameter.grad)

    def first_difference(self, other: Trace) -> tuple[Mark, str] | None:
        """The earliest place at which two traces of the same passes differ, and what is there. Waits for the device."""
        lone = [min(self.prints.keys() ^ other.prints.keys())] if self.prints.keys() != other.prints.keys() else []
        shared = sorted(self.prints.keys() & other.prints.keys())
        if shared:
            mine, theirs = (torch.stack([trace.prints[mark] for mark in shared]) for trace in (self, other))
            differ = (mine != theirs).nonzero().flatten().tolist()
            lone += [shared[differ[0]]] if differ else []
        return (min(lone), {**self.names, **other.names}[min(lone)]) if lone else None


class Recorder:
    """Writes traces of chosen passes.

    Forward it notes what each op and the pass as a whole give, backward the gradients that come to the ops' inputs.
    Whatever leaves a rank was noted before, but for what happens to it between the last op and the send. Nothing that
    is computed changes.
    """

    def __init__(self) -> None:
        self._pass: _Pass | None = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Passes within the block can be recorded."""
        with wrapping("traced", **{name: lambda op, name=name: self._heard(name, op) for name in OPS}):
            yield

    def forward(self, trace: Trace, compute: Compute, part: int, micro: int, hidden: Tensor | None) -> PartOutput:
        """Run a part's forward pass, and record it and the backward pass that will follow."""
        self._pass = _Pass(trace, part, micro)
        try:
            out = compute(part, micro, hidden)
        finally:
            done, self._pass = self._pass, None
        done.ends(out)
        return out

    def _heard(self, name: str, implementation: Implementation) -> Implementation:
        def op(*args: Any, **kwargs: Any) -> Any:
            recorded = self._pass
            if recorded is None:
                return implementation(*args, **kwargs)
            recorded.takes(name, args)
            out = implementation(*args, **kwargs)
            recorded.gives(name, out)
            return out

        return op


class _Pass:
    """A pass of one part over one micro-batch, being recorded."""

    def __init__(self, trace: Trace, part: int, micro: int) -> None:
        self._trace, self._part, self._micro = trace, part, micro
        self._place = 0
        self._listening: dict[int, weakref.ref[Tensor]] = {}

    def takes(self, name: str, inputs: Iterable[Any]) -> None:
        """An op begins: note the gradients that will come to its inputs."""
        self._place += _RESULTS
        for number, tensor in enumerate(_tensors(inputs)):
            if tensor.requires_grad and not isinstance(tensor, nn.Parameter) and self._is_new(tensor):
                mark = Mark(self._micro, 1, -self._part, number - self._place)
                tensor.register_hook(self._hook(mark, f"gradient at an input of {name}, {self._where(tensor)}"))

    def gives(self, name: str, out: Any) -> None:
        """An op ends."""
        for number, tensor in enumerate(_tensors((out,))):
            mark = Mark(self._micro, 0, self._part, self._place + number)
            self._trace.note(mark, f"output of {name}, {self._where(tensor)}", tensor)

    def ends(self, out: PartOutput) -> None:
        """The forward pass is over."""
        last = {"loss terms": out.terms, "loss": out.loss, "hidden state": out.hidden}
        for number, (name, tensor) in enumerate(last.items()):
            if tensor is not None:
                mark = Mark(self._micro, 0, self._part, _LATE + number)
                self._trace.note(mark, f"{name}, {self._where(tensor)}", tensor)

    def _hook(self, mark: Mark, name: str) -> Callable[[Tensor], None]:
        return lambda gradient: self._trace.note(mark, name, gradient)

    def _is_new(self, tensor: Tensor) -> bool:
        """Whether no op before has taken this tensor: its gradient is complete once all ops that took it are passed."""
        known = self._listening.get(id(tensor))
        if known is not None and known() is tensor:
            return False
        self._listening[id(tensor)] = weakref.ref(tensor)
        return True

    def _where(self, tensor: Tensor) -> str:
        shape = list(tensor.shape)
        return f"{shape}, op {self._place // _RESULTS} of part {self._part} in micro-batch {self._micro}"


def _tensors(items: Iterable[Any]) -> list[Tensor]:
    """The tensors among an op's arguments or results, those in tuples included."""
    flat = (part for item in items for part in (item if isinstance(item, tuple | list) else (item,)))
    return [part for part in flat if isinstance(part, Tensor)]
