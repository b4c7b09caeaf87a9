"""A checkpoint on disk as something to load from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from homegrown.train.checkpoint import store
from homegrown.train.checkpoint.content import MANIFEST, CheckpointError, Manifest, manifest_text
from homegrown.train.checkpoint.part import PartReader, faults
from homegrown.train.checkpoint.peers import Peers
from homegrown.train.checkpoint.together import together


class DiskSource:
    """The checkpoint of a step below `root`; all methods are collective."""

    def __init__(self, root: Path, step: int, peers: Peers) -> None:
        self._folder, self._peers = store.directory(root, step), peers

    def open(self) -> tuple[Manifest | None, list[str]]:
        """Its manifest if all of it is sound, else `None`; and what is wrong with it.

        Every file is read once and verified, the work divided among the ranks.
        """
        opened = together(self._peers, lambda: None, lambda _: self._read_manifest())
        if opened["fault"]:
            return None, [opened["fault"]]
        manifest = Manifest.parse(opened["text"], self._folder / MANIFEST)
        share = list(manifest.parts)[self._peers.rank :: self._peers.size]
        found = together(
            self._peers,
            lambda: part_faults(self._folder, manifest, share),
            lambda lists: [fault for faults in lists for fault in faults],
        )
        return (None if found else manifest), found

    def read(self, manifest: Manifest, wanted: Mapping[str, Tensor]) -> None:
        """Fill tensors from the parts that hold them."""
        read_parts(self._folder, manifest, wanted)

    def _read_manifest(self) -> dict[str, Any]:
        try:
            text = manifest_text(self._folder)
            Manifest.parse(text, self._folder / MANIFEST)
        except CheckpointError as error:
            return {"fault": str(error)}
        return {"fault": "", "text": text}


def part_faults(folder: Path, manifest: Manifest, names: Iterable[str]) -> list[str]:
    """One sentence for each damaged or missing file of these parts."""
    return [fault for name in names for fault in faults(folder / name, manifest.parts[name])]


def read_parts(folder: Path, manifest: Manifest, wanted: Mapping[str, Tensor]) -> None:
    """Fill tensors from the parts that hold them, all of which lie below `folder`; nothing else is read.

    Raises:
        CheckpointError: a part cannot be read.
    """
    for name, keys in manifest.by_part(wanted).items():
        PartReader(folder / name).read({key: wanted[key] for key in keys})
