"""The file behind a flight record: its parts, and how one process reads what another is writing.

A header, a table of groups and two slots that are written in turn, each part with a checksum. A reader takes the newer
whole slot. It needs no lock, and neither a worker stopped in the middle of a write nor a processor that reorders stores
can show it half of one. Imports no torch.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from homegrown.config.errors import UserError

MAX_GROUPS = 32
"""Groups a record has room for."""
KEPT_STEPS = 16
"""Finished steps whose times a record keeps."""

_MAGIC = b"hgfligh1"
_CHECK = struct.Struct("@I")
_HEADER = struct.Struct("@8sIIId64s")  # magic, rank, pid, attempt, opened, host
_GROUP = struct.Struct("@32sH986s")  # name, length of the text, ranks as text
_STATE = struct.Struct("@QdqqIiQQd24s24s")  # in the order of `_parse`
_ENTERED = struct.Struct(f"@{MAX_GROUPS}Q")
_TIME = struct.Struct("@qff")  # step, seconds, waited

_SLOT = 1024
_SLOTS_AT = 128
_GROUPS_AT = _SLOTS_AT + 2 * _SLOT
_GROUP_ROOM = 1024
_SIZE = _GROUPS_AT + MAX_GROUPS * _GROUP_ROOM
_ENTERED_AT = _CHECK.size + 4 + _STATE.size
_TIMES_AT = _ENTERED_AT + _ENTERED.size
_TEXT = 986


class FlightError(UserError):
    """A flight record that cannot be kept or read; the message names the file."""


class Collective(NamedTuple):
    """A collective that a rank has entered and not left.

    Attributes:
        op: such as `all_to_all`.
        group: name of the group; `Record.groups` holds its members.
        sequence: how many collectives of this group the rank has entered, this one included.
        nbytes: bytes this rank sends.
        since: wall-clock time of the entry, seconds.
    """

    op: str
    group: str
    sequence: int
    nbytes: int
    since: float


class StepTime(NamedTuple):
    """A finished step: its number, its seconds, and how many of them were spent inside collectives."""

    step: int
    seconds: float
    waited: float


@dataclass(frozen=True)
class Record:
    """What a worker was doing when its record was read.

    Attributes:
        rank, pid, host, attempt: who it is; `attempt` is the incarnation of the job it belongs to.
        opened: wall-clock time at which the record was begun.
        version: how often it was written; while this grows, the worker moves.
        moved: wall-clock time of the last write.
        first, step: the first and the last step begun; -1 before the first.
        phase: what it does.
        collective: the one it is inside of.
        entered: collectives entered so far, by name of the group.
        groups: members of the groups, by name, as far as the table has room for their text.
        times: the last finished steps, oldest first.
    """

    rank: int
    pid: int
    host: str
    attempt: int
    opened: float
    version: int
    moved: float
    first: int
    step: int
    phase: str
    collective: Collective | None
    entered: dict[str, int]
    groups: dict[str, tuple[int, ...]]
    times: tuple[StepTime, ...]


class FlightFile:
    """The writer's side."""

    def __init__(self, path: Path, *, rank: int, pid: int, attempt: int, opened: float, host: str) -> None:
        self._map = _create(path)
        self._slot = bytearray(_SLOT)
        for index in range(KEPT_STEPS):
            self.put_time(StepTime(index - KEPT_STEPS, 0.0, 0.0))
        self._seal(0, _HEADER.pack(_MAGIC, rank, pid, attempt, opened, host.encode()[:64]))

    def put_group(self, index: int, name: str, ranks: Sequence[int]) -> None:
        """Enter a group into the table, before any state counts it."""
        text = ranks_text(ranks).encode()
        self._seal(_GROUPS_AT + index * _GROUP_ROOM, _GROUP.pack(name.encode()[:32], len(text), text))

    def put_entered(self, index: int, count: int) -> None:
        """Note how many collectives of a group were entered; shown by the next `put_state`."""
        struct.pack_into("@Q", self._slot, _ENTERED_AT + 8 * index, count)

    def put_time(self, time: StepTime) -> None:
        """Note a finished step; shown by the next `put_state`."""
        _TIME.pack_into(self._slot, _TIMES_AT + _TIME.size * (time.step % KEPT_STEPS), *time)

    def put_state(
        self, version: int, moved: float, first: int, step: int, groups: int, phase: bytes,
        group: int = -1, sequence: int = 0, nbytes: int = 0, since: float = 0.0, op: bytes = b"",
    ) -> None:  # fmt: skip
        """Write the state, with all that was put before, into the slot that does not hold the last one."""
        slot = self._slot
        _STATE.pack_into(slot, 8, version, moved, first, step, groups, group, sequence, nbytes, since, op, phase)
        _CHECK.pack_into(slot, 0, zlib.crc32(memoryview(slot)[_CHECK.size :]))
        start = _SLOTS_AT + version % 2 * _SLOT
        self._map[start : start + _SLOT] = slot

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def _seal(self, start: int, data: bytes) -> None:
        self._map[start : start + _CHECK.size + len(data)] = _CHECK.pack(zlib.crc32(data)) + data


def read_file(path: Path) -> Record:
    """The record at `path`, as it is now.

    Raises:
        FlightError: no such file, or no flight record.
    """
    for _ in range(100):  # a slot is torn only while it is written, and then the other one is whole: once is the rule
        try:
            record = _parse(path.read_bytes())
        except FileNotFoundError:
            raise FlightError(f"{path}: no flight record there") from None
        if record is not None:
            return record
    raise FlightError(f"{path}: holds no flight record, or one of another version")


def _parse(data: bytes) -> Record | None:
    """The newest state in `data`; None if it holds none that is whole."""
    header = _sealed(data, 0, _HEADER.size)
    slots = [slot for index in (0, 1) if (slot := _sealed(data, _SLOTS_AT + index * _SLOT, _SLOT - _CHECK.size))]
    if header is None or not slots:
        return None
    magic, rank, pid, attempt, opened, host = _HEADER.unpack(header)
    if magic != _MAGIC:
        return None
    slot = max(slots, key=lambda slot: _STATE.unpack_from(slot, 4)[0])
    version, moved, first, step, count, group, sequence, nbytes, since, op, phase = _STATE.unpack_from(slot, 4)
    groups = list(_groups(data, count))
    if len(groups) < count:
        return None
    entered = _ENTERED.unpack_from(slot, _ENTERED_AT - _CHECK.size)
    times = [StepTime(*_TIME.unpack_from(slot, _TIMES_AT - _CHECK.size + _TIME.size * i)) for i in range(KEPT_STEPS)]
    inside = Collective(_word(op), groups[group][0], sequence, nbytes, since) if group >= 0 else None
    return Record(
        rank=rank, pid=pid, host=_word(host), attempt=attempt, opened=opened,
        version=version, moved=moved, first=first, step=step, phase=_word(phase), collective=inside,
        entered={name: entered[index] for index, (name, _) in enumerate(groups)}, groups=dict(groups),
        times=tuple(sorted(time for time in times if time.step >= 0)),
    )  # fmt: skip


def _groups(data: bytes, count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index in range(count):
        sealed = _sealed(data, _GROUPS_AT + index * _GROUP_ROOM, _GROUP.size)
        if sealed is not None:
            name, length, text = _GROUP.unpack(sealed)
            yield _word(name), tuple(ranks_in(text[:length].decode()))


def _sealed(data: bytes, start: int, size: int) -> bytes | None:
    """The part of `size` bytes that follows its checksum at `start`; None if it is torn."""
    part = data[start + _CHECK.size : start + _CHECK.size + size]
    if len(part) < size or _CHECK.unpack_from(data, start)[0] != zlib.crc32(part):
        return None
    return part


def _create(path: Path) -> mmap.mmap:
    """A new file in place of an old one, which its own process may still have mapped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with path.open("x+b") as file:
        # Written out, not left sparse: on a full disk this fails, where a store into the map would kill the process.
        file.write(bytes(_SIZE))
        file.flush()
        os.fsync(file.fileno())
        return mmap.mmap(file.fileno(), _SIZE)


def ranks_text(ranks: Sequence[int], room: int = _TEXT) -> str:
    """`0-3,8-56:8` for 0, 1, 2, 3, 8, 16, ... 56, cut before the first run for which `room` characters are too few."""
    runs: list[str] = []
    start = 0
    while start < len(ranks):
        end = start + 1
        stride = ranks[end] - ranks[start] if end < len(ranks) else 1
        while end < len(ranks) and ranks[end] - ranks[end - 1] == stride > 0:
            end += 1
        if end - start == 2 and stride > 1:  # two ranks far apart are no run
            end -= 1
        first, last = ranks[start], ranks[end - 1]
        run = f"{first}" if first == last else f"{first}-{last}" + (f":{stride}" if stride > 1 else "")
        room -= len(run) + 1
        if room < 0:
            break
        runs.append(run)
        start = end
    return ",".join(runs)


def ranks_in(text: str) -> Iterator[int]:
    """The ranks that `ranks_text` wrote."""
    for run in filter(None, text.split(",")):
        ends, _, stride = run.partition(":")
        first, _, last = ends.partition("-")
        yield from range(int(first), int(last or first) + 1, int(stride or 1))


def _word(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
