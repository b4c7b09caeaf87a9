"""A copy in the hosts' memories as something to load from, after some of the hosts were lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from homegrown.train.checkpoint import store
from homegrown.train.checkpoint.content import MANIFEST, CheckpointError, Manifest, read_manifest
from homegrown.train.checkpoint.disk import read_parts
from homegrown.train.checkpoint.memory import Memory
from homegrown.train.checkpoint.part import PartReader, faults
from homegrown.train.checkpoint.peers import Peers
from homegrown.train.checkpoint.together import together


class Survey:
    """What copies there are, and where the ranks of this world run. Making one is collective.

    Attributes:
        hosts: name of each rank's host.
        holders: step -> a rank whose host has the copy's manifest, for copies of this run.
    """

    def __init__(self, memory: Memory, peers: Peers, run: str) -> None:
        def look() -> dict[str, Any]:
            return {"host": memory.host, "steps": _sealed_steps(memory, run)}

        seen = together(peers, look, lambda sights: sights)
        self.hosts = [sight["host"] for sight in seen]
        self.holders: dict[int, int] = {}
        for rank, sight in enumerate(seen):
            for step in sight["steps"]:
                self.holders.setdefault(step, rank)

    def ranks(self, host: str) -> list[int]:
        """The ranks that run on a host."""
        return [rank for rank, name in enumerate(self.hosts) if name == host]


class MemorySource:
    """The copy of a step among the memories of hosts; all methods are collective."""

    def __init__(self, memory: Memory, step: int, survey: Survey, peers: Peers) -> None:
        self._folder, self._survey, self._peers = store.directory(memory.root, step), survey, peers
        self._host, self._holder = memory.host, survey.holders[step]
        self._places: dict[str, list[str]] = {}

    def open(self) -> tuple[Manifest | None, list[str]]:
        """Its manifest if the surviving hosts have all its parts, sound; else `None` and what is missing.

        A host's ranks divide among them what lies there.
        """
        peers = self._peers
        text = together(
            peers,
            lambda: (self._folder / MANIFEST).read_text("utf-8") if peers.rank == self._holder else None,
            lambda texts: texts[self._holder],
        )
        manifest = Manifest.parse(text, self._folder / MANIFEST)
        near = self._survey.ranks(self._host)
        share = list(manifest.parts)[near.index(peers.rank) :: len(near)]

        def sound() -> list[str]:
            return [name for name in share if not faults(self._folder / name, manifest.parts[name])]

        self._places = together(peers, sound, self._by_part)
        lost = [name for name in manifest.parts if name not in self._places]
        if not lost:
            return manifest, []
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        return None, [f"the copy of step {manifest.step} in memory: {lost[0]}{more} survived sound on no host"]

    def read(self, manifest: Manifest, wanted: Mapping[str, Tensor]) -> None:
        """Fill tensors from this host's parts, and have the others sent by hosts that hold them."""
        near: dict[str, Tensor] = {}
        needs: dict[str, list[str]] = {}
        for name, keys in manifest.by_part(wanted).items():
            if self._host in self._places[name]:
                near |= {key: wanted[key] for key in keys}
            else:
                needs.setdefault(str(self._sender(name)), []).extend(keys)
        read_parts(self._folder, manifest, near)
        everyone = together(self._peers, lambda: needs, lambda all_needs: all_needs)
        # Every rank goes through its pairs in one order for all, so that some pair can always proceed.
        for sender, receiver in sorted((int(sender), rank) for rank, of in enumerate(everyone) for sender in of):
            keys = everyone[receiver][str(sender)]  # in the order of their parts, on both sides
            if sender == self._peers.rank:
                self._send(manifest, keys, receiver)
            elif receiver == self._peers.rank:
                self._receive({key: wanted[key] for key in keys}, sender)

    def _by_part(self, sound: list[list[str]]) -> dict[str, list[str]]:
        """Part -> hosts with a sound copy of it."""
        places: dict[str, list[str]] = {}
        for host, names in zip(self._survey.hosts, sound, strict=True):
            for name in names:
                places.setdefault(name, []).append(host)
        return places

    def _sender(self, part: str) -> int:
        """The rank that is asked for a part: ranks spread over those of its host."""
        there = self._survey.ranks(self._places[part][0])
        return there[self._peers.rank % len(there)]

    def _send(self, manifest: Manifest, keys: list[str], receiver: int) -> None:
        for name, held in manifest.by_part(keys).items():
            reader = PartReader(self._folder / name)
            for key in held:
                tensor = manifest.tensors[key].empty()
                reader.read({key: tensor})
                self._peers.send(tensor, receiver)

    def _receive(self, wanted: Mapping[str, Tensor], sender: int) -> None:
        for tensor in wanted.values():
            direct = tensor.is_cpu and tensor.is_contiguous()
            space = tensor.detach() if direct else tensor.new_empty(tensor.shape, device="cpu")
            self._peers.receive(space, sender)
            if not direct:
                tensor.detach().copy_(space)


def _sealed_steps(memory: Memory, run: str) -> list[int]:
    """Steps of which this host has a sound manifest of this run."""
    steps = []
    for step in store.saved_steps(memory.root):
        try:
            manifest = read_manifest(store.directory(memory.root, step))
        except CheckpointError:
            continue  # in the making when the host's processes ended: its parts are elsewhere, or nowhere
        if manifest.run == run:
            steps.append(step)
    return steps
