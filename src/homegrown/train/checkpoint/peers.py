"""Small messages between the ranks that save together, over a tree of point-to-point links.

A plain gather would open a connection from every rank to rank 0. Here a rank talks to its parent and to at most
`FAN_OUT` children, so that 50,000 ranks are four levels, and a rank that does not answer is noticed by one other, which
says so upwards instead of failing with it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from homegrown.parallel.groups import Group

FAN_OUT = 32
CHUNK = 1 << 28
"""Bytes sent at a time."""


class PeerError(RuntimeError):
    """A rank that does not answer."""


Sending = tuple[Any, Tensor]
"""Something under way, and the memory it is sent from."""


class Absent(str):
    """In place of a rank's message: why there is none."""


class Peers:
    """The ranks of a group, this one among them. Values are what JSON can say.

    The group's backend moves host memory, and nothing else uses the group while a save is under way.
    """

    def __init__(self, group: Group) -> None:
        self.rank, self.size, self._handle = group.rank, group.size, group.handle
        self._children = range(FAN_OUT * self.rank + 1, min(FAN_OUT * (self.rank + 1) + 1, self.size))

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value by rank, on rank 0; `None` on the others. A rank that failed has an `Absent`."""
        lines = [f"{self.rank}\t{json.dumps(value)}"]
        for child in self._children:
            try:
                lines.append(self.receive_bytes(child).decode())
            except PeerError as error:
                lines.append(f"{child}\t!{error}")
        if self.rank:
            self.send_bytes("\n".join(lines).encode(), self._parent)
            return None
        values: list[Any] = [Absent(f"rank {rank} did not report") for rank in range(self.size)]
        for line in "\n".join(lines).split("\n"):
            rank, _, text = line.partition("\t")
            values[int(rank)] = Absent(text[1:]) if text.startswith("!") else json.loads(text)
        return values

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's value, on every rank.

        Raises:
            PeerError: the rank above did not answer.
        """
        data = self.receive_bytes(self._parent) if self.rank else json.dumps(value).encode()
        for child in self._children:
            # A child that is gone cannot be told; whoever is below it notices by the group's timeout.
            with suppress(PeerError):
                self.send_bytes(data, child)
        return json.loads(data) if self.rank else value

    def send_bytes(self, data: bytes, to: int) -> None:
        """Send a message of any length.

        Raises:
            PeerError: `to` does not answer.
        """
        self.finish(self.start_send_bytes(data, to), to)

    def start_send_bytes(self, data: bytes, to: int) -> list[Sending]:
        """Begin to send a message of any length."""
        length, body = torch.tensor([len(data)]), torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return [*self.start_send(length, to), *self.start_send(body, to)]

    def receive_bytes(self, sender: int) -> bytes:
        """Receive a message of `send_bytes`.

        Raises:
            PeerError: `sender` does not answer.
        """
        length = torch.empty(1, dtype=torch.int64)
        self.receive(length, sender)
        data = torch.empty(int(length), dtype=torch.uint8)
        if data.numel():
            self.receive(data, sender)
        return data.numpy().tobytes()

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a contiguous tensor in host memory.

        Raises:
            PeerError: `to` does not answer.
        """
        self.finish(self.start_send(tensor, to), to)

    def start_send(self, tensor: Tensor, to: int) -> list[Sending]:
        """Begin to send; what is returned must be kept, and the tensor left as it is, until `finish`."""
        try:
            return [(dist.isend(piece, group=self._handle, group_dst=to), piece) for piece in _pieces(tensor)]
        except RuntimeError as error:
            raise PeerError(f"rank {to} does not answer: {_first_line(error)}") from None

    def receive(self, out: Tensor, sender: int) -> None:
        """Receive into a contiguous tensor in host memory.

        Raises:
            PeerError: `sender` does not answer.
        """
        for piece in _pieces(out):
            try:
                work = dist.irecv(piece, group=self._handle, group_src=sender)
            except RuntimeError as error:
                raise PeerError(f"rank {sender} does not answer: {_first_line(error)}") from None
            self._wait(work, sender)

    def finish(self, sendings: list[Sending], to: int) -> None:
        """Wait for what `start_send` began.

        Raises:
            PeerError: `to` does not answer.
        """
        for work, _ in sendings:
            self._wait(work, to)

    @property
    def _parent(self) -> int:
        return (self.rank - 1) // FAN_OUT

    def _wait(self, work: Any, other: int) -> None:
        try:
            work.wait()
        except RuntimeError as error:
            raise PeerError(f"rank {other} does not answer: {_first_line(error)}") from None


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor's bytes: collective libraries do not know every dtype, and no length is too long then."""
    flat = tensor.detach().reshape(-1)
    return flat.view(torch.uint8).split(CHUNK) if flat.numel() else ()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
