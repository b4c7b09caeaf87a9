"""The pipeline of one rank: carries out its stage's program, whatever the parts compute."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from homegrown.config import UserError
from homegrown.parallel.collectives import gather
from homegrown.parallel.groups import Group
from homegrown.parallel.layout import Layout
from homegrown.parallel.schedule import BACKWARD, FORWARD, Act, Exchange, programs
from homegrown.parallel.transfers import Transfer, Underway, start_transfers

SENDS_AHEAD = 2
"""Sends to one stage that may be under way when the next one begins. More would let a late receiver fill the memory."""


class PipelineError(UserError):
    """A pipeline that cannot go on; the message says where it stopped and what it waited for."""


class Output(Protocol):
    """What a part made of a micro-batch."""

    @property
    def hidden(self) -> Tensor | None:
        """[B, s, H] for the part that follows; `None` from the last part."""

    @property
    def loss(self) -> Tensor:
        """What arises in this part of the loss, a scalar."""


Forward = Callable[[int, int, Tensor | None], Output]
"""(part, micro-batch, hidden state from the part before; `None` for the first part) -> what the part makes of it."""


class _Pass(NamedTuple):
    """A forward pass that waits for its backward pass. The hidden state it made is not kept: its place in the graph
    (`exit`) is all that the gradient needs."""

    entry: Tensor | None
    loss: Tensor
    exit: GradientEdge | None


@dataclass
class Pipeline:
    """A stage of a pipeline, for steps of any number of micro-batches of one shape.

    All ranks of the group make theirs at the same time, and run them with the same number of micro-batches. When a run
    fails, the others of its group fail as well, at the latest after the group's timeout.

    Attributes:
        layout: who is who.
        group: the ranks of all stages, in order; this rank's place is its stage.
        device, dtype, shape: of the hidden state of a micro-batch between two parts, [B, s, H].
        through: whether gradients reach back through hidden states; `False` where each part's loss teaches that part
            alone (the indexers' warm-up), and no work is to be done for what is zero.
    """

    layout: Layout
    group: Group
    device: torch.device
    dtype: torch.dtype
    shape: Sequence[int]
    through: bool = True

    def __post_init__(self) -> None:
        self._met = self.group.size == 1
        self._forget()

    @property
    def last(self) -> int:
        """Number of the model's last part."""
        return self.layout.pp * self.layout.parts - 1

    def run(self, micros: int, forward: Forward, done: Callable[[int, int], None]) -> None:
        """Forward and backward over `micros` micro-batches; gradients add up in the parameters, in their order.

        Args:
            micros: number of micro-batches.
            forward: runs a part.
            done: called with part and micro-batch after each backward pass.

        Raises:
            ScheduleError: the schedule does not take this number of micro-batches.
            PipelineError: another stage did not send what was due, or a part made another shape.
        """

        def act(act: Act) -> None:
            if act.kind == FORWARD:
                self._forward(act, forward)
            else:
                self._backward(act)
                done(act.part, act.micro)

        self._carry_out(micros, True, act)

    def evaluate(self, micros: int, forward: Forward) -> list[Output]:
        """Forward passes only, without gradients: what the last part made of each micro-batch, in order; an empty list
        on the other stages.

        Raises:
            PipelineError: as in `run`.
        """
        outputs: list[Output] = []

        def act(act: Act) -> None:
            output = forward(act.part, act.micro, self._entry(act))
            if act.part == self.last:
                outputs.append(output)
            else:
                self._made[act] = self._checked(output.hidden, act)

        with torch.no_grad():
            self._carry_out(micros, False, act)
        return outputs

    def _carry_out(self, micros: int, training: bool, do: Callable[[Act], None]) -> None:
        try:
            self._meet()
            for step in programs(self.layout.pp, self.layout.parts, micros, training)[self.group.rank]:
                for exchange in step.exchanges:
                    self._start(exchange)
                if step.act is not None:
                    do(step.act)
            for target in self._sending:
                self._let_go(target, 0)
        finally:
            self._forget()

    def _meet(self) -> None:
        """Some backends connect a group in its first collective, and all its members must take part in that one."""
        if not self._met:
            gather(torch.zeros(1, device=self.device), self.group)
            self._met = True

    def _forget(self) -> None:
        """Let go of everything: what this rank made for others, what comes to it and what leaves it."""
        self._made: dict[Act, Tensor] = {}
        self._coming: dict[Act, Underway] = {}
        self._sending: dict[int, deque[Underway]] = defaultdict(deque)
        self._passes: dict[tuple[int, int], _Pass] = {}

    # Acts

    def _forward(self, act: Act, forward: Forward) -> None:
        entry = self._entry(act)
        if entry is not None:
            entry.requires_grad_(self.through)
        output = forward(act.part, act.micro, entry)
        exit_edge = None
        if act.part < self.last:
            hidden = self._checked(output.hidden, act)
            exit_edge = get_gradient_edge(hidden) if self.through and hidden.requires_grad else None
            self._made[act] = hidden.detach()
        self._passes[act.part, act.micro] = _Pass(entry, output.loss, exit_edge)

    def _backward(self, act: Act) -> None:
        entry, loss, exit_edge = self._passes.pop((act.part, act.micro))
        roots: list[Tensor | GradientEdge] = [loss] if loss.requires_grad else []
        grads: list[Tensor | None] = [None] * len(roots)
        grad = self._take(act._replace(part=act.part + 1)) if act.part < self.last else None
        if exit_edge is not None:
            roots.append(exit_edge)
            grads.append(grad)
        if roots:
            torch.autograd.backward(roots, grads)  # type: ignore[arg-type]
        if entry is not None:
            self._made[act] = torch.zeros_like(entry) if entry.grad is None else entry.grad

    def _entry(self, act: Act) -> Tensor | None:
        return self._take(act._replace(part=act.part - 1)) if act.part else None

    def _checked(self, hidden: Tensor | None, act: Act) -> Tensor:
        made = None if hidden is None else (tuple(hidden.shape), hidden.dtype)
        if hidden is None or made != (tuple(self.shape), self.dtype):
            raise PipelineError(
                f"{act} made {made or 'no hidden state'}; the pipeline carries {tuple(self.shape)}, {self.dtype}"
            )
        return hidden

    # Transfers

    def _start(self, exchange: Exchange) -> None:
        transfers = []
        for move in exchange:
            if move.source == self.group.rank:
                self._let_go(move.target, SENDS_AHEAD)
                tensor = self._made.pop(move.made_by).contiguous()
            else:
                tensor = torch.empty(tuple(self.shape), dtype=self.dtype, device=self.device)
            transfers.append(Transfer(tensor, move.source, move.target, self._tag(move.made_by)))
        try:
            started = start_transfers(transfers, self.group)
        except RuntimeError as error:
            raise PipelineError(f"{self._me}: no transfer to or from a stage beside it: {_reason(error)}") from error
        for move, underway in zip(exchange, started, strict=True):
            if move.source == self.group.rank:
                self._sending[move.target].append(underway)
            else:
                self._coming[move.made_by] = underway

    def _take(self, made_by: Act) -> Tensor:
        """What another stage's act made."""
        try:
            return self._coming.pop(made_by).wait()
        except RuntimeError as error:
            source = self._name(made_by.part % self.layout.pp)
            raise PipelineError(f"{self._me} waits for {made_by}, which {source} owes it: {_reason(error)}") from error

    def _let_go(self, target: int, most: int) -> None:
        """Wait until at most `most` sends to a stage are under way."""
        sending = self._sending[target]
        while len(sending) > most:
            try:
                sending.popleft().wait()
            except RuntimeError as error:
                name = self._name(target)
                raise PipelineError(f"{self._me}: {name} does not take what is sent to it: {_reason(error)}") from error

    def _tag(self, act: Act) -> int:
        """A number for what an act made."""
        return 2 * (act.micro * (self.last + 1) + act.part) + (act.kind == BACKWARD)

    @property
    def _me(self) -> str:
        return self._name(self.group.rank)

    def _name(self, stage: int) -> str:
        return f"pipeline stage {stage} (rank {self.group.ranks[stage]})"


def _reason(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]
