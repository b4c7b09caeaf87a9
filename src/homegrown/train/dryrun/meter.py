"""Counting what runs: floating-point operations, memory, messages; each by phase of training and component."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from homegrown.parallel.groups import Groups
from homegrown.train.dryrun.memory import Memory, Use
from homegrown.train.dryrun.standins import FLOPS, run
from homegrown.train.dryrun.wire import Message, Wires

PHASES = ("forward", "recompute", "backward", "step")
MADE_IN = {"forward": "activations", "recompute": "activations", "backward": "backward", "step": "step"}
"""Kind of the memory that is made in each phase."""
WHOLE = ("draft head",)
"""Components whose parts all count as themselves."""
PARTS = ("indexer", "experts")
"""Components that count as themselves inside others."""


@dataclass
class Work:
    """What a stretch of code did.

    Attributes:
        flops: floating-point operations.
        rise: bytes by which memory rose above what it began with, at its highest.
        messages: what was sent and received.
    """

    flops: int = 0
    rise: int = 0
    messages: list[Message] = field(default_factory=list)


class Meter(TorchDispatchMode):
    """Watches every operator of a block.

    Args:
        groups: of the rank whose messages are seen; `None` if there are none.
        device: whose memory is counted.

    Attributes:
        flops: (phase and component, operator) -> floating-point operations.
        messages: what was sent and received, in order.
        memory: bytes alive.
        host: those on the host.
    """

    def __init__(self, groups: Groups | None, device: torch.device) -> None:
        super().__init__()
        self.flops: Counter[tuple[Use, str]] = Counter()
        self.messages: list[Message] = []
        self.memory, self.host = Memory(device), Memory(torch.device("cpu"))
        self._wires = Wires(groups)
        self._within: list[str] = []
        self._marks: list[tuple[int, str]] = [(-1, "other")]
        self._stepping = False
        self._making = ""

    # Where we are

    @property
    def phase(self) -> str:
        """The phase of training in progress. Modules that run during a backward pass are recomputed."""
        if torch._C._current_graph_task_id() != -1:
            return "recompute" if self._within else "backward"
        return "step" if self._stepping else "forward"

    @property
    def component(self) -> str:
        """The component in progress, or whose backward pass is; `other` between them."""
        if self._within:
            return self._within[-1]
        node = torch._C._current_autograd_node()
        if node is None:
            return "other"
        return self._marks[bisect_right(self._marks, node._sequence_nr(), key=_number) - 1][1]

    def enter(self, component: str = "") -> None:
        """A forward pass enters a component, or a part of the one it is in."""
        here = self._within[-1] if self._within else "other"
        enters = here == "other" or (component in PARTS and here not in WHOLE)
        self._within.append(component if component and enters else here)
        self._mark()

    def leave(self) -> None:
        """The end of what `enter` began."""
        self._within.pop()
        self._mark()

    @contextmanager
    def inside(self, component: str = "") -> Iterator[None]:
        """This block is part of a component's forward pass."""
        self.enter(component)
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def stepping(self, component: str) -> Iterator[None]:
        """This block is part of the step that follows the backward passes."""
        before, self._stepping = self._stepping, True
        try:
            with self.inside(component):
                yield
        finally:
            self._stepping = before

    @contextmanager
    def making(self, kind: str) -> Iterator[None]:
        """What is made in this block is of one kind, and of the component of what it is made from."""
        before, self._making = self._making, kind
        try:
            yield
        finally:
            self._making = before

    def watch(self, owner: Any, name: str, around: Callable[[], Any]) -> None:
        """Run calls of a method of an object inside a context that `around` makes."""
        method = getattr(owner, name)

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            with around():
                return method(*args, **kwargs)

        setattr(owner, name, call)

    def _mark(self) -> None:
        """From here on, nodes of the graph belong to the component in progress."""
        number = torch._C._autograd._get_sequence_nr()
        if self._marks[-1][0] == number:
            self._marks.pop()
        self._marks.append((number, self._within[-1] if self._within else "other"))

    # What is done

    def repeat(self, work: Work, op: str) -> None:
        """Count what was measured before as done here, by `op`."""
        self.flops[Use(self.phase, self.component), op] += work.flops
        self.messages += work.messages
        self.memory.spike(work.rise, self._use(()))

    @contextmanager
    def aside(self) -> Iterator[Work]:
        """Measure a block by itself: what it does is not counted here, but given."""
        work = Work()
        before = (self.flops, self.messages)
        self.flops, self.messages = Counter(), work.messages
        try:
            with self.memory.aside() as risen:
                yield work
            work.flops, work.rise = self.flops.total(), risen[0]
        finally:
            self.flops, self.messages = before

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        out = run(func, args, kwargs)
        if func.namespace == "c10d":
            self.messages += self._wires.read(packet.__name__, args)
        elif packet in FLOPS:
            number = FLOPS[packet](*args, **kwargs, out_val=out)
            self.flops[Use(self.phase, self.component), packet.__name__] += number
        made = [item for item in tree_leaves(out) if isinstance(item, Tensor)]
        if made:
            use = self._use(args)
            for tensor in made:
                self.memory.admit(tensor, use)
                self.host.admit(tensor, use)
        return out

    def _use(self, args: Any) -> Use:
        if not self._making:
            return Use(MADE_IN[self.phase], self.component)
        sources = (self.memory.use_of(item) for item in tree_leaves(args) if isinstance(item, Tensor))
        return Use(self._making, next((use.component for use in sources if use is not None), "other"))


def _number(mark: tuple[int, str]) -> int:
    return mark[0]
