"""The flight record: what is written is what another process reads, at any moment, torn never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from homegrown.parallel import flight
from homegrown.parallel.flightfile import ranks_in, ranks_text

WORLD = tuple(range(4))


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "watch" / "rank-00002"
    flight.open(path, 2)
    yield path
    flight.close()


def test_without_a_record_nothing_happens():
    flight.enter("all_reduce", "world", WORLD, 8)
    flight.leave()
    flight.step(1)
    flight.phase("save")
    assert flight.waited() == 0
    flight.close()


class TestContent:
    def test_who_it_is(self, tmp_path, monkeypatch):
        monkeypatch.setenv(flight.ATTEMPT, "3")
        flight.open(tmp_path / "rank-00007", 7)
        found = flight.read(tmp_path / "rank-00007")
        flight.close()
        assert (found.rank, found.pid, found.attempt) == (7, os.getpid(), 3)
        assert found.host == os.uname().nodename[:64]
        assert abs(found.opened - time.time()) < 5
        assert (found.step, found.phase, found.collective) == (-1, "start", None)

    def test_a_collective_is_shown_until_it_is_left(self, record):
        flight.enter("all_gather", "cp", (2, 6), 64)
        flight.leave()
        flight.enter("all_to_all", "ep", WORLD, 4096)
        found = flight.read(record)
        assert found.collective[:4] == ("all_to_all", "ep", 1, 4096)
        assert abs(found.collective.since - time.time()) < 5
        assert found.entered == {"cp": 1, "ep": 1}
        assert found.groups == {"cp": (2, 6), "ep": WORLD}
        flight.leave()
        assert flight.read(record).collective is None

    def test_sequence_counts_by_group(self, record):
        for _ in range(5):
            flight.enter("all_reduce", "dp", WORLD, 8)
            flight.leave()
        flight.enter("all_reduce", "tp", (2, 3), 8)
        assert flight.read(record).collective.sequence == 1
        assert flight.read(record).entered == {"dp": 5, "tp": 1}
        flight.leave()

    def test_leaving_without_entering_is_refused(self, record):
        with pytest.raises(flight.FlightError, match="not entered"):
            flight.leave()

    def test_one_group_too_many_is_refused(self, record):
        for number in range(32):
            flight.enter("all_reduce", f"group{number}", WORLD, 8)
            flight.leave()
        with pytest.raises(flight.FlightError, match="'more' is one too many"):
            flight.enter("all_reduce", "more", WORLD, 8)

    def test_every_write_shows_as_movement(self, record):
        versions = [flight.read(record).version]
        for act in (
            lambda: flight.step(0), lambda: flight.enter("x", "g", WORLD, 0), flight.leave, lambda: flight.phase("save")
        ):  # fmt: skip
            act()
            versions.append(flight.read(record).version)
        assert versions == list(range(versions[0], versions[0] + 5))

    def test_steps_and_what_they_waited(self, record):
        flight.step(1)
        flight.enter("all_reduce", "dp", WORLD, 8)
        time.sleep(0.03)
        flight.leave()
        inside = flight.waited()
        assert 0.03 <= inside < 0.3
        time.sleep(0.02)
        flight.phase("save")
        time.sleep(0.05)
        flight.step(2)
        assert flight.waited() == 0
        found = flight.read(record)
        assert (found.step, found.phase) == (2, "step")
        [first] = found.times
        assert first.step == 1
        assert first.waited == pytest.approx(inside, rel=1e-6)
        assert 0.05 <= first.seconds < 0.05 + 0.05, "saving is no part of the step"

    def test_the_last_steps_are_kept_in_order(self, record):
        for number in range(40):
            flight.step(number)
        found = flight.read(record)
        assert [time.step for time in found.times] == list(range(23, 39))
        assert (found.first, found.step) == (0, 39)

    def test_threads_leave_what_they_entered(self, record):
        flight.enter("all_gather", "save", WORLD, 8)
        inside, go = threading.Event(), threading.Event()

        def other():
            flight.enter("all_to_all", "ep", WORLD, 8)
            inside.set()
            go.wait()
            flight.leave()

        thread = threading.Thread(target=other)
        thread.start()
        inside.wait()
        flight.leave()
        assert flight.read(record).collective.group == "ep"
        go.set()
        thread.join()
        assert flight.read(record).collective is None

    def test_two_records_are_refused(self, record):
        with pytest.raises(flight.FlightError, match="already"):
            flight.open(record.with_name("rank-00003"), 3)


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ((5,), "5"),
        (range(4), "0-3"),
        ((0, 8), "0,8"),
        ((0, 1), "0-1"),
        (range(3, 100, 8), "3-99:8"),
        ((0, 1, 2, 3, 8, 16, 24), "0-3,8-24:8"),
        (range(49152), "0-49151"),
    ],
)
def test_ranks_as_text(ranks, text):
    assert ranks_text(ranks) == text
    assert list(ranks_in(text)) == list(ranks)


def test_ranks_beyond_the_room_are_cut_at_a_whole_run():
    ranks = [number * number for number in range(1000)]
    kept = list(ranks_in(ranks_text(ranks)))
    assert len(ranks_text(ranks)) <= 986
    assert kept == ranks[: len(kept)]
    assert len(kept) > 100


class TestReading:
    def test_no_file(self, tmp_path):
        with pytest.raises(flight.FlightError, match=r"none.*no flight record there"):
            flight.read(tmp_path / "none")

    @pytest.mark.parametrize("content", [b"", b"x" * 50000, bytes(50000)])
    def test_no_record(self, tmp_path, content):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(flight.FlightError, match="holds no flight record"):
            flight.read(tmp_path / "other")

    def test_another_process_reads_whole_states_while_this_one_writes(self, tmp_path):
        """The writer keeps step = 3 * bytes of the collective = number of entries; a torn state would break it."""
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "rank-00000")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        writer.stdout.readline()
        steps = set()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            found = flight.read(tmp_path / "rank-00000")
            if found.collective is not None:
                assert found.collective.nbytes == found.step * 3
                assert found.collective.sequence == found.step + 1 == found.entered["world"]
                steps.add(found.step)
        writer.kill()
        writer.wait()
        assert len(steps) > 50
        assert flight.read(tmp_path / "rank-00000").step >= max(steps), "a killed writer leaves a readable record"

    def test_a_slot_torn_by_a_killed_writer_is_passed_over(self, record):
        flight.step(1)
        flight.step(2)
        data = bytearray(record.read_bytes())
        newest = flight.read(record)
        start = 128 + newest.version % 2 * 1024
        data[start + 48] ^= 0xFF
        copy = record.with_name("torn")
        copy.write_bytes(data)
        assert flight.read(copy).step == 1


WRITER = """
import sys
from pathlib import Path
from homegrown.parallel import flight
assert "torch" not in sys.modules
flight.open(Path(sys.argv[1]), 0)
world = tuple(range(8))
print("ready", flush=True)
number = 0
while True:
    flight.step(number)
    flight.enter("all_reduce", "world", world, number * 3)
    flight.leave()
    number += 1
"""


def test_stacks_on_request(tmp_path):
    code = f"""
import time
from pathlib import Path
from homegrown.parallel import flight
flight.open(Path({str(tmp_path / "rank-00000")!r}), 0)
def stuck_here():
    print("ready", flush=True)
    time.sleep(60)
stuck_here()
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    stacks = flight.stacks_path(tmp_path / "rank-00000")
    child.send_signal(signal.SIGUSR1)
    end = time.monotonic() + 10
    while "stuck_here" not in stacks.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    assert "in stuck_here" in stacks.read_text()
    assert child.poll() is None
    child.kill()
    child.wait()


def test_a_full_disk_shows_when_the_record_is_opened(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from homegrown.parallel import flight
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    flight.open(Path(sys.argv[1]), 0)
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "record"], capture_output=True, text=True, check=True)
    assert done.stdout == "OSError\n"


def test_the_place_of_a_record(monkeypatch):
    monkeypatch.delenv(flight.WATCH, raising=False)
    assert flight.record_path(Path("runs/a"), 3) == Path("runs/a/watch/rank-00003")
    monkeypatch.setenv(flight.WATCH, "/dev/shm/here")
    assert flight.record_path(Path("runs/a"), 3) == Path("/dev/shm/here/rank-00003")
