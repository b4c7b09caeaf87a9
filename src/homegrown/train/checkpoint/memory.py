"""Copies in the memory of hosts: more frequent than disks bear, and safe from the loss of any one host.

A host keeps its ranks' parts, and those of the host before it in a ring, as files in memory that outlives the
processes. The manifest is written to every host when all parts are in place everywhere; only then does a host drop the
copy before. So at any moment, whichever host is lost, the others hold one copy that is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from homegrown.config.atomic import write_text
from homegrown.train.checkpoint import store
from homegrown.train.checkpoint.content import MANIFEST, Part
from homegrown.train.checkpoint.part import Watch, faults, part_name
from homegrown.train.checkpoint.peers import Peers, Sending
from homegrown.train.checkpoint.saving import Snapshot, same_step
from homegrown.train.checkpoint.together import RankError, together

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Memory:
    """Where a host keeps copies.

    Attributes:
        root: a directory in memory that outlives the processes; the same run must find it again.
        host: this host's name; ranks of the same name share `root`.
    """

    root: Path
    host: str = field(default_factory=socket.gethostname)

    @classmethod
    def of_run(cls, run: Path) -> Memory:
        """The usual place for a run's directory."""
        return cls(SHARED_MEMORY / f"homegrown-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]}")


@dataclass(frozen=True)
class Ring:
    """Who keeps whose second copy. Hosts stand in a ring in the order of their lowest rank.

    Attributes:
        target: rank that gets this rank's part; `None` if there is just one host.
        sources: ranks whose parts come here.
        first: whether this is the lowest rank of its host.
    """

    target: int | None
    sources: tuple[int, ...]
    first: bool

    @classmethod
    def of(cls, hosts: list[str], rank: int) -> Ring:
        """A rank's place, given every rank's host."""
        ranks: dict[str, list[int]] = {}
        for other, host in enumerate(hosts):
            ranks.setdefault(host, []).append(other)
        names = list(ranks)
        after = dict(zip(names, [*names[1:], names[0]], strict=True))

        def target(other: int) -> int | None:
            near, far = ranks[hosts[other]], ranks[after[hosts[other]]]
            return None if len(names) == 1 else far[near.index(other) % len(far)]

        before = next(name for name in names if after[name] == hosts[rank])
        sources = tuple(other for other in ranks[before] if target(other) == rank)
        return cls(target(rank), sources, ranks[hosts[rank]][0] == rank)


def save_to_memory(memory: Memory, peers: Peers, ring: Ring, snapshot: Snapshot, watch: Watch) -> None:
    """Keep a moment in the memory of hosts, all ranks together, and drop the one before.

    Raises:
        RankError: on every rank, if any of them failed or died.
        PeerError: the rank that was to say how it ended does not answer.
    """
    watch("begin")
    folder = store.directory(memory.root, snapshot.step)
    together(peers, lambda: snapshot.step, same_step)
    try:
        manifest = together(
            peers,
            lambda: _write(folder, peers, ring, snapshot, watch).table(),
            lambda tables: snapshot.manifest(tables).text(),
        )
        watch("seal")
        if ring.first:
            write_text(folder / MANIFEST, manifest)
            drop_all_but(memory.root, snapshot.step)
    except BaseException:
        # What is incomplete would only take up memory.
        shutil.rmtree(folder, ignore_errors=True)
        raise


def drop_all_but(root: Path, step: int | None) -> None:
    """Remove all copies but one."""
    for known in store.saved_steps(root):
        if known != step:
            shutil.rmtree(store.directory(root, known), ignore_errors=True)


def _write(folder: Path, peers: Peers, ring: Ring, snapshot: Snapshot, watch: Watch) -> Part:
    """Put this rank's part here and with its keeper."""
    part: Part | None = None
    try:
        with _appearing(folder / part_name(peers.rank)) as temporary:
            part = snapshot.write(temporary, watch)
    finally:
        watch("exchange")
        _exchange(folder, peers, ring, part)
    return part


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A name beside `path` for a directory that then becomes it; one left there by an earlier attempt goes."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(folder: Path, peers: Peers, ring: Ring, own: Part | None) -> None:
    """Send this rank's part to its keeper while receiving those that are kept here. Without a part, say so to both.

    Raises:
        RankError: a part did not arrive as it was sent.
        PeerError: a rank does not answer.
    """
    sendings: list[Sending] = []
    if ring.target is not None:
        sendings += peers.start_send_bytes(json.dumps(own and own.table()).encode(), ring.target)
        for name, facts in own.files.items() if own else ():
            sendings += peers.start_send(mapped(folder / part_name(peers.rank) / name, facts.size), ring.target)
    for source in ring.sources:
        _receive(folder, peers, source)
    if ring.target is not None:
        peers.finish(sendings, ring.target)


def _receive(folder: Path, peers: Peers, source: int) -> None:
    table = json.loads(peers.receive_bytes(source))
    if table is None:
        raise RankError(f"rank {source} has no part to be kept")
    part = Part.of(table)
    with _appearing(folder / part_name(source)) as temporary:
        temporary.mkdir(parents=True)
        for name, facts in part.files.items():
            with (temporary / name).open("wb") as stream:
                # Taken now, since memory that is missing at a write to a mapped file would end the process.
                if facts.size:
                    os.posix_fallocate(stream.fileno(), 0, facts.size)
            peers.receive(mapped(temporary / name, facts.size), source)
        wrong = faults(temporary, part)
        if wrong:
            raise RankError(f"a copy of rank {source}'s part did not arrive: {wrong[0]}")


def mapped(file: Path, size: int) -> Tensor:
    """A file's bytes, as a tensor that is the file."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(str(file), shared=True, size=size, dtype=torch.uint8)
