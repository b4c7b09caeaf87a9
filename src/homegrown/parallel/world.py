"""The processes of a run: which one this is, which device it has, and how they find one another.

A launcher (torchrun, or anything that sets the same environment variables) starts the processes; `join` reads what it
said, takes this process's device and waits until all of them are there. Without a launcher a process is a world of one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from homegrown import device as devices
from homegrown.config import UserError

TIMEOUT_S = 600.0
"""How long processes wait for one another, at the start and in a collective, unless told otherwise: a host may read a
checkpoint for minutes before it arrives."""

MANY = 256
"""In larger worlds the hosts' processes connect only when they talk."""

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_NEEDED = (*_NUMBERS, "MASTER_ADDR", "MASTER_PORT")


class WorldError(UserError):
    """The processes of a run did not come together; the message says what was read and what would be right."""


@dataclass(frozen=True)
class World:
    """This process among those of its run.

    Attributes:
        rank: its number, from 0.
        size: how many there are. A world of one has no process group.
        local_rank: its number on this host, from 0.
        device: what it computes on.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device


def join(device: str = "auto", timeout_s: float = TIMEOUT_S) -> World:
    """Take this process's device and meet the other processes of the run.

    The environment says who this is: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun sets them.
    Where none of the first three is set, this is a world of one. In a larger world torch.distributed is initialised
    with the device's collective backend, and a CPU backend beside it.

    Args:
        device: `auto` (an accelerator if there is one, else the CPU) or a device's name. Without an index it is the
            LOCAL_RANK-th of its type; with one it is that device, for launchers that show each process only its own.
        timeout_s: seconds to wait for the others, now and in every collective of the default group.

    Raises:
        WorldError: the environment is incomplete or contradicts itself, the store cannot be reached, or some
            processes did not come.
        DeviceError: this host has no such device, or not that many.
    """
    place = _read(os.environ)
    world = World(place.rank, place.size, place.local_rank, _take(device, place))
    if world.size > 1:
        wait = timedelta(seconds=timeout_s)
        store = _reach(place, wait)
        _meet(store, place, wait)
        if world.size > MANY:
            devices.connect_when_used()
        backend = devices.collective_backends(world.device)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=wait)
    return world


def leave() -> None:
    """Close the connections to the other processes; nothing happens in a world of one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class _Place:
    """What the launcher said."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    host: str = ""
    port: int = 0

    @property
    def store(self) -> str:
        """Where the store is, for messages."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size} (host {socket.gethostname()}, local rank {self.local_rank})"


def _read(environment: Mapping[str, str]) -> _Place:
    if not any(name in environment for name in _NUMBERS):
        return _Place()
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        raise WorldError(
            f"environment: {', '.join(name for name in _NEEDED if name not in missing)} set, but not "
            f"{', '.join(missing)}; start several processes with torchrun, which sets all five, or unset all for one"
        )
    rank, size, local_rank, port = (_number(environment, name) for name in (*_NUMBERS, "MASTER_PORT"))
    if rank >= size:  # LOCAL_RANK may be above RANK: a supervisor passes over slots that are cordoned
        raise WorldError(f"environment: RANK={rank}, WORLD_SIZE={size}; right is RANK < WORLD_SIZE, counted from 0")
    if port >= 1 << 16:
        raise WorldError(f"environment: MASTER_PORT={port}; a port is below {1 << 16}")
    return _Place(rank, size, local_rank, environment["MASTER_ADDR"], port)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isdecimal():
        raise WorldError(f"environment: {name}={value!r} is not a whole number from 0")
    return int(value)


def _take(name: str, place: _Place) -> torch.device:
    """The device called `name`; without an index, the one that local rank counts off."""
    accelerators = devices.available()[1:]  # the CPU comes first; any number of processes share it
    kind = accelerators[0].partition(":")[0] if accelerators else ""
    if (place.size == 1 and place.local_rank == 0) or not accelerators or name not in ("auto", kind):
        return devices.pick(name)
    # Not picked before its index is known: every process would take memory on the first device.
    if place.local_rank >= len(accelerators):
        raise devices.DeviceError(
            f"{place}: no device {kind}:{place.local_rank}, this host shows {len(accelerators)}; start at most one "
            "process per device (torchrun --nproc-per-node), or name the device with its index if the launcher "
            "shows each process only its own"
        )
    return devices.pick(accelerators[place.local_rank])


def _reach(place: _Place, wait: timedelta) -> dist.Store:
    """The store through which the processes find one another; rank 0 holds it where the launcher does not."""
    launcher_holds_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            place.host,
            place.port,
            place.size,
            is_master=place.rank == 0 and not launcher_holds_it,
            timeout=wait,
            wait_for_workers=False,  # `_meet` waits, and knows whom it waits for
        )
    except dist.DistError as error:
        raise WorldError(
            f"{place}: no store at {place.store} (MASTER_ADDR:MASTER_PORT): {_first_line(error)}; it must be an "
            "address of the first host as this one sees it, with a free port that no firewall closes"
        ) from None
    return dist.PrefixStore("homegrown", store)


def _meet(store: dist.Store, place: _Place, wait: timedelta) -> None:
    """Wait until every rank has come: once, here, where the missing can be named, and not in the first collective."""
    store.set(f"came/{place.rank}", socket.gethostname())
    arrived = store.add("came", 1)
    if arrived > place.size:
        raise WorldError(
            f"{place}: the store at {place.store} already holds {arrived - 1} arrivals, of an earlier attempt or "
            "another run; every attempt needs a store of its own (torchrun: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1)"
        )
    if arrived == place.size:
        store.set("all", "")
    try:
        store.wait(["all"], wait)
    except dist.DistError as error:
        raise WorldError(f"{place}: after {wait.total_seconds():g} s {_who_is_missing(store, place, error)}") from None


def _who_is_missing(store: dist.Store, place: _Place, error: dist.DistError) -> str:
    # One rank looks through all of them: tens of thousands that all did would overrun the store.
    looked = range(place.size) if place.rank == 0 else range(1)
    try:
        missing = [rank for rank in looked if not store.check([f"came/{rank}"])]
    except dist.DistError:
        return f"the store at {place.store} stopped answering: {_first_line(error)}"
    if not missing:
        return "some ranks have not come; rank 0 names them in its own message"
    names = ", ".join(map(str, missing[:16])) + (", ..." if len(missing) > 16 else "")
    return f"{len(missing) if place.rank == 0 else 'at least 1'} of {place.size} ranks have not come: {names}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
