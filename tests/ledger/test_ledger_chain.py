"""The chain shows every change, and a file cut anywhere goes on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.ledger import GENESIS, Ledger, LedgerError, TornTailError

START = datetime(2026, 7, 1, 12, tzinfo=UTC)


def clock_from(start: datetime):
    times = (start + timedelta(seconds=n) for n in range(10_000))
    return lambda: next(times)


def write_ledger(path: Path) -> bytes:
    with Ledger.create(path, sync=False, clock=clock_from(START)) as ledger:
        ledger.append("start", data="f00d", seed=7)
        ledger.append("step", step=1, loss=2.5, text="naïve ☃ </script>")
        ledger.append("fault", loss=math.nan, norm=math.inf, kind="loss", seq=0, nested={"$float": [1, -0.0]})
        ledger.append("checkpoint", step=1, path="checkpoints/step-00000001")
    return path.read_bytes()


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_ledger(tmp_path_factory.mktemp("ledger") / "ledger.jsonl")


def at(folder: Path, data: bytes) -> Path:
    path = folder / "ledger.jsonl"
    path.write_bytes(data)
    return path


def test_reading_gives_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    with Ledger.create(path, clock=clock_from(START)) as ledger:
        assert ledger.head == GENESIS
        first = ledger.append("start", seed=7, shape=(2, 3))
        second = ledger.append("step", loss=math.inf)
        assert (ledger.head, ledger.count) == (second.hash, 2)
    assert Ledger.read(path) == [first, second]
    assert first.time == "2026-07-01T12:00:00.000000+00:00"
    assert first.payload == {"seed": 7, "shape": [2, 3]}
    assert second.payload == {"loss": math.inf}
    assert (second.seq, second.prev) == (1, first.hash)


def test_the_hash_is_sha256_of_the_canonical_json(intact: bytes) -> None:
    previous = hashlib.sha256(b"homegrown ledger, version 1").hexdigest()
    for number, line in enumerate(intact.splitlines()):
        record = json.loads(line)
        digest = record.pop("hash")
        text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        assert digest == hashlib.sha256(text.encode()).hexdigest()
        assert (record["seq"], record["prev"]) == (number, previous)
        previous = digest


def test_the_payload_is_a_copy(tmp_path: Path) -> None:
    values = [1]
    with Ledger.create(tmp_path / "ledger.jsonl", sync=False) as ledger:
        record = ledger.append("x", values=values)
    values.append(2)
    assert record.payload == {"values": [1]}


def test_a_refused_payload_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path, sync=False) as ledger:
        ledger.append("a")
        with pytest.raises(TypeError, match=r"payload\.bad is a set"):
            ledger.append("b", bad={1})
        ledger.append("c")
    assert [record.kind for record in Ledger.read(path)] == ["a", "c"]


def check_detected(folder: Path, damaged: bytes) -> None:
    path = at(folder, damaged)
    with pytest.raises(LedgerError, match=r"ledger\.jsonl, line \d: "):
        Ledger.read(path)
    # To go on is refused too, unless the damage looks like a torn last line: then the record says so.
    try:
        Ledger.open(path, sync=False).close()
    except LedgerError:
        return
    assert Ledger.read(path)[-1].kind == "recovered"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_detected(intact: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(intact) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != intact[position]))
    with tempfile.TemporaryDirectory() as folder:
        check_detected(Path(folder), intact[:position] + bytes([byte]) + intact[position + 1 :])


def test_a_flipped_bit_anywhere_is_detected(tmp_path: Path, intact: bytes) -> None:
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << position % 8
        path = at(tmp_path, bytes(damaged))
        with pytest.raises(LedgerError):
            Ledger.read(path)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_an_inserted_or_removed_byte_is_detected(intact: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(intact) - 1))
    added = data.draw(st.binary(max_size=1))
    with tempfile.TemporaryDirectory() as folder:
        check_detected(Path(folder), intact[:position] + added + intact[position + (not added) :])


@pytest.mark.parametrize("order", [[1, 2, 3], [0, 2, 3], [0, 2, 1, 3], [0, 1, 1, 2, 3]])
def test_missing_moved_or_repeated_lines_are_detected(tmp_path: Path, intact: bytes, order: list[int]) -> None:
    lines = intact.splitlines(keepends=True)
    path = at(tmp_path, b"".join(lines[index] for index in order))
    with pytest.raises(LedgerError, match="lines are missing, repeated or moved"):
        Ledger.read(path)


def test_a_record_of_another_chain_is_detected(tmp_path: Path, intact: bytes) -> None:
    with Ledger.create(tmp_path / "other.jsonl", sync=False) as other:
        other.append("start", data="beef")
        other.append("step", step=1)
    foreign = (tmp_path / "other.jsonl").read_bytes().splitlines(keepends=True)[1]
    path = at(tmp_path, intact.splitlines(keepends=True)[0] + foreign)
    with pytest.raises(LedgerError, match="line 2: does not continue the record before it"):
        Ledger.read(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[]\n", "not a record"),
        (b'{"hash":"","kind":"","payload":[],"prev":"","seq":0,"time":""}\n', "whose payload is an object"),
        (b'{"hash":"", "kind":"","payload":{},"prev":"","seq":0,"time":""}\n', "not canonical JSON"),
        (b'{"hash":"","kind":"","payload":{},"prev":"","seq":0,"time":""}\n', "does not match its hash"),
    ],
)
def test_the_reason_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    with pytest.raises(LedgerError, match=reason):
        Ledger.read(at(tmp_path, line))


def test_a_file_cut_at_any_byte_goes_on(tmp_path: Path, intact: bytes) -> None:
    ends = [position + 1 for position, byte in enumerate(intact) if byte == ord("\n")]
    whole = Ledger.read(at(tmp_path, intact))
    for cut in range(len(intact)):
        path = at(tmp_path, intact[:cut])
        kept = sum(end <= cut for end in ends)
        torn = cut not in (0, *ends)
        with Ledger.open(path, sync=False) as ledger:
            ledger.append("resume")
        records = Ledger.read(path)
        assert records[:kept] == whole[:kept]
        assert [record.kind for record in records[kept:]] == ["recovered"] * torn + ["resume"]
        if torn:
            start = max([0, *(end for end in ends if end <= cut)])
            assert records[kept].payload["line"] == kept + 1
            assert records[kept].payload["bytes"] == cut - start
            assert records[kept].payload["lost"] == intact[start:cut].decode()


def test_a_torn_line_of_zeros_is_recovered(tmp_path: Path, intact: bytes) -> None:
    path = at(tmp_path, intact + bytes(40) + b"\n")
    with pytest.raises(TornTailError, match="line 5: torn, the last 41 bytes"):
        Ledger.read(path)
    Ledger.open(path, sync=False).close()
    assert Ledger.read(path)[-1].payload["bytes"] == 41


def test_kill_9_leaves_a_ledger_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    writer = (
        "import sys, pathlib; from homegrown.ledger import Ledger\n"
        "ledger = Ledger.create(pathlib.Path(sys.argv[1]), sync=False)\n"
        "while True: ledger.append('step', text='x' * 5000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", writer, str(path)]) as process:
        deadline = time.monotonic() + 30
        while not path.exists() or path.stat().st_size < 200_000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(LedgerError, match="already open for writing, here or in another process"):
            Ledger.open(path)
        process.send_signal(signal.SIGKILL)
    with Ledger.open(path) as ledger:
        ledger.append("resume")
    assert Ledger.read(path)[-1].kind == "resume"


def test_a_ledger_is_never_replaced(tmp_path: Path, intact: bytes) -> None:
    with pytest.raises(LedgerError, match="exists already"):
        Ledger.create(at(tmp_path, intact))


@pytest.mark.parametrize("use", [Ledger.open, Ledger.read])
def test_a_missing_file_is_named(tmp_path: Path, use) -> None:
    with pytest.raises(LedgerError, match="no such ledger"):
        use(tmp_path / "ledger.jsonl")


def test_a_damaged_ledger_is_not_locked_by_the_attempt(tmp_path: Path, intact: bytes) -> None:
    path = at(tmp_path, intact.replace(b"f00d", b"f00e"))
    for _ in range(2):
        with pytest.raises(LedgerError, match="line 1: the content does not match its hash"):
            Ledger.open(path)


def test_a_second_writer_is_noticed(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger.jsonl", sync=False) as ledger:
        ledger.append("a")
        with ledger.path.open("ab") as other:
            other.write(b"noise\n")
        with pytest.raises(LedgerError, match="something else wrote"):
            ledger.append("b")


def test_after_close_nothing_is_appended(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "ledger.jsonl")
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.append("x")


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger.create(path) as ledger:
        ledger.append("a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(LedgerError, match=r"record 1 could not be written.*No space left"):
                ledger.append("b")
        ledger.append("c")
    assert [record.kind for record in Ledger.read(path)] == ["a", "c"]
