"""The collectives that training uses: right among every group size, and how fast?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from homegrown import device as devices
from homegrown.bench.doctor.report import CollectiveResult
from homegrown.bench.interleave import Tick
from homegrown.bench.record import Spread
from homegrown.parallel import collectives
from homegrown.parallel.groups import Group
from homegrown.parallel.world import World

DTYPES = (torch.float32, torch.bfloat16, torch.int64)
SMALL = 8
"""Numbers each process sends to each other one when latency is measured."""


def group_sizes(world: int) -> list[int]:
    """2, 4, 8, ... and the whole world."""
    sizes = [1 << power for power in range(1, world.bit_length()) if 1 << power < world]
    return [*sizes, world] if world > 1 else []


def count_collectives(world: int) -> int:
    """How often `check_collectives` calls its `tick`."""
    return len(group_sizes(world)) * len(_OPERATIONS)


def check_collectives(
    world: World, numbers: int, repetitions: int, timeout_s: float, tick: Tick = lambda label: None
) -> list[CollectiveResult]:
    """Check and time every operation among neighbours of every group size. All processes must take part.

    After a call that fails (one that never completes fails after `timeout_s`) this process makes no other: whom it
    would meet in the next is no longer sure. A wrong result is noted and the calls go on.

    Args:
        world: this process.
        numbers: float32 numbers each process sends to each other one when bandwidth is measured.
        repetitions: timed calls, after one that is not counted.
        timeout_s: seconds to wait for the others in one call.
        tick: told what comes next.
    """
    results: list[CollectiveResult] = []
    name, size = "new_group", 0
    try:
        for size in group_sizes(world.size):
            start = world.rank // size * size
            if start + size > world.size:  # too few neighbours are left for this process
                continue
            name = "new_group"
            group = _neighbours(start, size, world, timeout_s)
            for name in _OPERATIONS:
                tick(f"{name} among {size}")
                results.append(_examine(name, group, world.device, numbers, repetitions))
    except (RuntimeError, NotImplementedError) as error:
        failure = str(error).partition("\n")[0] or type(error).__name__
        results.append(CollectiveResult(operation=name, size=size, failure=failure))
    return results


def _neighbours(start: int, size: int, world: World, timeout_s: float) -> Group:
    ranks = list(range(start, start + size))
    if size == world.size:
        handle = dist.group.WORLD
    else:
        handle = dist.new_group(ranks, timeout=timedelta(seconds=timeout_s), use_local_synchronization=True)
    return Group(f"{size} neighbours", tuple(ranks), world.rank - start, handle)


def _examine(name: str, group: Group, device: torch.device, numbers: int, repetitions: int) -> CollectiveResult:
    operation = _OPERATIONS[name]
    wrong = [dtype for dtype in DTYPES if not _is_right(operation, group, dtype, device)]
    failure = f"wrong result in {', '.join(map(str, wrong))}" if wrong else ""
    if operation.sent is None:
        return CollectiveResult(operation=name, size=group.size, failure=failure)
    latency, seconds = (
        _times(operation, torch.ones(group.size, width, device=device), group, device, repetitions)
        for width in (SMALL, numbers)
    )
    sent = 4 * numbers * operation.sent(group.size)
    return CollectiveResult(
        operation=name,
        size=group.size,
        failure=failure,
        latency=Spread.of(latency),
        bandwidth=Spread.of([sent / taken for taken in seconds]),
    )


def _is_right(operation: _Operation, group: Group, dtype: torch.dtype, device: torch.device) -> bool:
    got = operation.run(_rows(group.rank, group, SMALL, dtype).to(device), group)
    return torch.equal(got.cpu(), operation.right(group, SMALL, dtype))


def _times(operation: _Operation, x: Tensor, group: Group, device: torch.device, repetitions: int) -> list[float]:
    times = []
    for _ in range(1 + repetitions):
        collectives.barrier(group)
        devices.synchronize(device)
        start = time.perf_counter()
        operation.run(x, group)
        devices.synchronize(device)
        times.append(time.perf_counter() - start)
    return times[1:]


# The operations. The numbers are small and whole, so that every dtype holds them exactly.


def _rows(member: int, group: Group, width: int, dtype: torch.dtype) -> Tensor:
    """[size, width] of a member: its number and the receiver's leave their mark."""
    receiver = torch.arange(group.size)[:, None] % 8
    return (receiver * 2 + torch.arange(width) % 3 + member % 8).to(dtype)


def _splits(sender: int, receiver: int) -> int:
    """Rows sent from one member to another in the uneven exchange; some send nothing."""
    return (sender + 2 * receiver) % 3


def _uneven(x: Tensor, group: Group) -> Tensor:
    send = [_splits(group.rank, other) for other in range(group.size)]
    receive = [_splits(other, group.rank) for other in range(group.size)]
    rows = x.repeat_interleave(torch.tensor(send, device=x.device), dim=0)
    return collectives.exchange(rows, group, send, receive)


def _even(x: Tensor, group: Group) -> Tensor:
    ones = [1] * group.size
    return collectives.start_exchange(x, group, ones, ones).wait()


def _gather_first(x: Tensor, group: Group) -> Tensor:
    return collectives.gather(x[0], group)


def _pass_on(x: Tensor, group: Group) -> Tensor:
    """Send to the next member, receive from the one before: what a pipeline does."""
    following, before = (group.ranks[(group.rank + step) % group.size] for step in (1, -1))
    received = torch.empty_like(x[0])
    calls = [
        dist.P2POp(dist.isend, x[0].contiguous(), following, group.handle),
        dist.P2POp(dist.irecv, received, before, group.handle),
    ]
    for work in dist.batch_isend_irecv(calls):
        work.wait()
    return received


# What must come out


def _received(group: Group, width: int, dtype: torch.dtype) -> Tensor:
    return torch.stack([_rows(other, group, width, dtype)[group.rank] for other in range(group.size)])


def _received_uneven(group: Group, width: int, dtype: torch.dtype) -> Tensor:
    splits = torch.tensor([_splits(other, group.rank) for other in range(group.size)])
    return _received(group, width, dtype).repeat_interleave(splits, dim=0)


def _gathered(group: Group, width: int, dtype: torch.dtype) -> Tensor:
    return torch.stack([_rows(other, group, width, dtype)[0] for other in range(group.size)])


def _summed(group: Group, width: int, dtype: torch.dtype) -> Tensor:
    # Exact in float64; collectives sum in float32 or wider and round once.
    return torch.stack([_rows(other, group, width, torch.float64) for other in range(group.size)]).sum(0).to(dtype)


def _summed_own(group: Group, width: int, dtype: torch.dtype) -> Tensor:
    return _summed(group, width, dtype)[group.rank]


def _passed(group: Group, width: int, dtype: torch.dtype) -> Tensor:
    return _rows((group.rank - 1) % group.size, group, width, dtype)[0]


@dataclass(frozen=True)
class _Operation:
    """An operation on x [size, N] whose row r is meant for, or told by, member r.

    Attributes:
        run: the operation.
        right: what it must give this member, for rows of N.
        sent: rows that a process sends to others, by group size; `None` where timing would measure something else.
    """

    run: Callable[[Tensor, Group], Tensor]
    right: Callable[[Group, int, torch.dtype], Tensor]
    sent: Callable[[int], int] | None


_OPERATIONS = {
    "all_to_all": _Operation(_even, _received, lambda size: size - 1),
    "all_to_all, uneven": _Operation(_uneven, _received_uneven, None),
    "all_gather": _Operation(_gather_first, _gathered, lambda size: size - 1),
    "reduce_scatter": _Operation(collectives.sum_scatter, _summed_own, lambda size: size - 1),
    "all_reduce": _Operation(collectives.all_reduce, _summed, lambda size: 2 * (size - 1)),
    "send, receive": _Operation(_pass_on, _passed, lambda size: 1),
}
