"""One rank's part of a checkpoint: a directory in PyTorch's distributed format, complete in itself.

`torch.distributed.checkpoint.save` would gather every rank's plan on one coordinator, in time and memory that grow with
the world. Keys are unique here, so there is nothing to plan: each rank goes through the same steps (planner, writer,
metadata) alone, and its directory is a checkpoint that `torch.distributed.checkpoint.load` reads as well.
"""

from __future__ import annotations

import enum
import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homegrown.train.checkpoint.content import CheckpointError, FileFacts, Part, Spec
from homegrown.train.checkpoint.store import sync_directory

Watch = Callable[[str], None]
"""Told the name of each phase of a save as it begins."""

_FORMAT = "torch.distributed.checkpoint.metadata"
_HARMLESS = {
    *((_FORMAT, name) for name in ("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    *((_FORMAT, name) for name in ("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}


def part_name(rank: int) -> str:
    """The directory of a rank's part."""
    return f"rank-{rank:05d}"


def write_part(folder: Path, tensors: Mapping[str, Tensor], watch: Watch) -> Part:
    """Write tensors in host memory into a new directory, and force them to the disk.

    Raises:
        OSError: the disk is full or fails.
    """
    from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter  # a second to import

    folder.mkdir(parents=True)
    state: dict[str, Any] = dict(tensors)
    # Nothing to copy ahead from a device: all of it lies in host memory.
    writer = FileSystemWriter(folder, sync_files=True, per_thread_copy_ahead=0)
    planner = DefaultSavePlanner()
    planner.set_up_planner(state, writer.storage_meta(), is_coordinator=True)
    writer.set_up_storage_writer(is_coordinator=True)
    plans = [writer.prepare_local_plan(planner.create_local_plan())]
    plans, metadata = planner.create_global_plan(plans)
    plan = planner.finish_plan(writer.prepare_global_plan(plans)[0])
    try:
        watch("write tensors")
        results = writer.write_data(plan, planner).wait()
        watch("write metadata")
        writer.finish(metadata, [results])
    except (OSError, RuntimeError) as error:
        raise _system_error(error, folder) or error from error
    sync_directory(folder)
    watch("checksum")
    files = {file.name: file_facts(file) for file in sorted(folder.iterdir())}
    return Part(files, {key: Spec.of(tensor) for key, tensor in tensors.items()})


class PartReader:
    """A part, to be read from; its table of contents is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._metadata: Any = None

    def read(self, wanted: Mapping[str, Tensor]) -> None:
        """Fill tensors, on any device, with what the part holds under their keys; nothing else is read.

        Raises:
            CheckpointError: the part has become unreadable since it was verified.
        """
        from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader

        state: dict[str, Any] = dict(wanted)
        try:
            if self._metadata is None:
                with (self._folder / ".metadata").open("rb") as stream:
                    self._metadata = _Unpickler(stream).load()
            reader, planner = FileSystemReader(self._folder), DefaultLoadPlanner()
            planner.set_up_planner(state, self._metadata, is_coordinator=True)
            reader.set_up_storage_reader(self._metadata, is_coordinator=True)
            plans = [reader.prepare_local_plan(planner.create_local_plan())]
            plan = planner.finish_plan(reader.prepare_global_plan(planner.create_global_plan(plans))[0])
            with torch.no_grad():
                reader.read_data(plan, planner).wait()
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self._folder}: cannot be read: {error}") from error


def faults(folder: Path, part: Part) -> list[str]:
    """One sentence for each file of a part that is missing or not as it was written."""
    return [fault for name, facts in part.files.items() if (fault := _fault(folder / name, facts))]


def file_facts(file: Path) -> FileFacts:
    """Length and checksum of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileFacts(stream.tell(), digest)


def _fault(file: Path, expected: FileFacts) -> str | None:
    try:
        if file.is_file() and file.stat().st_size != expected.size:
            return f"{file}: {file.stat().st_size} bytes long, not {expected.size} as recorded"
        found = file_facts(file).sha256
    except FileNotFoundError:
        return f"{file}: missing"
    except OSError as error:
        return f"{file}: cannot be read: {error.strerror}"
    if found != expected.sha256:
        return f"{file}: checksum {found[:12]} differs from the recorded {expected.sha256[:12]}"
    return None


def _system_error(error: BaseException | None, folder: Path) -> OSError | None:
    """What the system said, with the place: the serialiser replaces it by an error of its own about positions."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return OSError(error.errno, error.strerror, str(folder)) if error is not None else None


class _Unpickler(pickle.Unpickler):
    """Knows the few classes that the format's metadata is made of: a stranger's checkpoint runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        """Look a class up, if it is one of those."""
        if (module, name) == ("builtins", "getattr"):
            return _member  # early releases of Python 3.11 write an enumeration's member as getattr(class, name)
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or (module, name) in _HARMLESS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its metadata names {module}.{name}, which no checkpoint needs")


def _member(kind: Any, name: str) -> enum.Enum:
    """A member of an enumeration by its name, and nothing else that an attribute could be."""
    if not (isinstance(kind, enum.EnumType) and name in kind.__members__):
        raise pickle.UnpicklingError(f"its metadata asks for attribute {name!r} of {kind!r}, which no checkpoint needs")
    return kind.__members__[name]
