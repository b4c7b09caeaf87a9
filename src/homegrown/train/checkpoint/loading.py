"""Loading: the newest sound state, from disks or from the memory of hosts, by any world whatever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from homegrown.train.checkpoint import store
from homegrown.train.checkpoint.content import CheckpointError, Manifest
from homegrown.train.checkpoint.disk import DiskSource
from homegrown.train.checkpoint.memory import Memory, drop_all_but
from homegrown.train.checkpoint.peers import PeerError, Peers
from homegrown.train.checkpoint.recovery import MemorySource, Survey
from homegrown.train.checkpoint.together import RankError, together

Wanted = Mapping[str, Tensor] | Callable[[Manifest], Mapping[str, Tensor]]
"""Tensors, on any device, to be filled with what is stored under their keys; or what gives them for a checkpoint."""
Place = Literal["disk", "memory", "nowhere"]


@dataclass(frozen=True)
class Loaded:
    """What was loaded.

    Attributes:
        step: optimizer steps taken; `None` if there was nothing to load.
        facts: everything that is not a tensor, as written.
        place: where it lay.
        complaints: one sentence for each fault of newer checkpoints, which were passed over.
    """

    step: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    place: Place = "nowhere"
    complaints: list[str] = field(default_factory=list)


def load(root: Path, peers: Peers, memory: Memory | None, run: str, wanted: Wanted) -> Loaded:
    """Fill `wanted` from the newest state that is whole, on disk or among the hosts' memories; all ranks together.

    Everything is verified before anything is read, so a damaged checkpoint is passed over by all ranks. Copies in
    memory of other steps than the one loaded, or of other runs, are dropped.

    Raises:
        CheckpointError: a sound checkpoint lacks a wanted tensor or has it in another shape, or ranks fail.
    """
    try:
        loaded = _load(root, peers, memory, run, wanted)
    except (RankError, PeerError) as error:
        raise CheckpointError(f"{root}: cannot be loaded: {error}") from error
    if memory is not None:
        drop_all_but(memory.root, loaded.step if loaded.place == "memory" else None)
    return loaded


def _load(root: Path, peers: Peers, memory: Memory | None, run: str, wanted: Wanted) -> Loaded:
    complaints: list[str] = []
    for place, source in _candidates(root, peers, memory, run):
        manifest, faults = source.open()
        complaints += faults
        if manifest is not None:
            _fill(peers, source, manifest, wanted)
            return Loaded(manifest.step, manifest.facts, place, complaints)
    return Loaded(complaints=complaints)


def _candidates(
    root: Path, peers: Peers, memory: Memory | None, run: str
) -> Iterator[tuple[Place, DiskSource | MemorySource]]:
    """All there is, newest first; of one step the disk's before that in memory, since nothing has to be sent then."""

    def tidied(_: list[Any]) -> list[int]:
        store.clean_up(root)
        return store.saved_steps(root)

    steps = together(peers, lambda: None, tidied)
    survey = None if memory is None else Survey(memory, peers, run)
    held = survey.holders if survey else {}
    for step in sorted({*steps, *held}, reverse=True):
        if step in steps:
            yield "disk", DiskSource(root, step, peers)
        if survey and memory and step in held:
            yield "memory", MemorySource(memory, step, survey, peers)


def _fill(peers: Peers, source: DiskSource | MemorySource, manifest: Manifest, wanted: Wanted) -> None:
    tensors = wanted(manifest) if callable(wanted) else wanted

    def fit(lists: list[list[str]]) -> None:
        misfits = [misfit for found in lists for misfit in found]
        if misfits:
            more = f" (and {len(misfits) - 1} more such)" if len(misfits) > 1 else ""
            raise CheckpointError(f"the checkpoint of step {manifest.step} does not fit: {misfits[0]}{more}")

    together(peers, lambda: manifest.misfits(tensors), fit)
    source.read(manifest, tensors)
