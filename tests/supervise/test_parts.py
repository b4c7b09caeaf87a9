"""Rosters, starts, messages, journals, verdicts: the small parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from homegrown.config import ConfigError, UsageError
from homegrown.parallel import flight
from homegrown.parallel.verdict import leave_verdict, verdicts
from homegrown.supervise import messages as say
from homegrown.supervise.controller import continued
from homegrown.supervise.journal import Journal, read_journal
from homegrown.supervise.roster import Place, Roster, seat
from homegrown.supervise.rules import Note, Rules
from homegrown.supervise.starting import quorum, size
from homegrown.supervise.supervisor import Address
from homegrown.supervise.wording import ending, listed

PLACES = [Place(host, slot) for host in "ab" for slot in range(3)]


class TestSeats:
    def test_first_time_in_order(self):
        assert seat(PLACES, 4, {}) == dict(enumerate(PLACES[:4]))

    def test_who_stays_keeps_his_place_and_a_neighbour_takes_over(self):
        before = {0: Place("a", 0), 1: Place("a", 1), 2: Place("b", 0), 3: Place("b", 1)}
        ready = [place for place in PLACES if place != Place("b", 0)]
        assert seat(ready, 4, before) == before | {2: Place("b", 2)}

    def test_else_another_host_takes_over(self):
        before = {0: Place("a", 0), 1: Place("a", 1), 2: Place("a", 2)}
        ready = [place for place in PLACES if place != Place("a", 1)]
        assert seat(ready, 3, before)[1] == Place("b", 0)

    def test_doubtful_places_come_last(self):
        doubtful = {Place("a", 1), Place("a", 2)}
        assert seat(PLACES, 3, {}, doubtful) == dict(enumerate([Place("a", 0), Place("b", 0), Place("b", 1)]))
        assert seat(PLACES, 5, {}, doubtful) == dict(enumerate(PLACES[:5]))
        before = {0: Place("a", 0), 1: Place("a", -1)}
        assert seat(PLACES, 2, before, {Place("a", 1)}) == {0: Place("a", 0), 1: Place("a", 2)}

    def test_another_size_is_seated_afresh(self):
        assert seat(PLACES[1:], 2, {0: PLACES[3], 1: PLACES[1], 2: PLACES[2]}) == {0: PLACES[1], 1: PLACES[2]}


class TestStarting:
    def test_size(self):
        rules = Rules(workers=8, min_workers=3, fits=lambda world: world % 2 == 0)
        assert [size(rules, slots) for slots in (10, 8, 7, 4, 3, 0)] == [8, 8, 6, 4, 0, 0]

    @pytest.mark.parametrize(
        ("formed", "there", "enough"),
        [("abc", "ab", True), ("abc", "a", False), ("abc", "cde", False), ("ab", "a", True), ("ab", "b", False)],
    )
    def test_quorum(self, formed, there, enough):
        assert quorum(Rules(workers=1, home="a"), frozenset(formed), there) == enough

    def test_a_host_that_comes_with_fewer_slots(self):
        roster = Roster()
        roster.join("a", 3, "", 0, 0.0)
        roster.join("a", 2, "", 0, 0.0)
        assert roster.ready() == [Place("a", 0), Place("a", 1)]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"workers": 0}, "workers = 0"),
            ({"min_workers": 3}, "min-workers = 3"),
            ({"lease": 0.5}, "lease = 0.5"),
            ({"hang_after": 0.0}, "hang-after"),
            ({"cordon_slow": 1.2}, "cordon-slow = 1.2"),
        ],
    )
    def test_rules_that_cannot_be(self, values, message):
        with pytest.raises(ConfigError, match=message):
            Rules(**{"workers": 2, **values})


class TestMessages:
    @pytest.mark.parametrize(
        "report",
        [
            say.Hello("host", 8, "10.0.0.1", 1234, 3, "secret"),
            say.Beat(
                3, [say.Digest(1, 2.5, "S", waiting=say.Waiting("op", "tp", "0-7", 9, 1.5), times=[(4, 0.5, 0.1)])]
            ),
            say.Exited(3, 1, -9, say.Digest(1), "last words", [say.Blame(2, "why")]),
            say.Idle(3, 4000),
            say.Tested(1, False, "no"),
            say.Leaving(),
        ],
    )
    def test_reports_travel_as_lines(self, report):
        line = say.line(report)
        assert line.count(b"\n") == 1
        assert say.report(line) == report

    def test_orders_travel_as_lines(self):
        order = say.Start(1, 4, "10.0.0.1", 29500, 1, [say.Seat(2, 0)])
        assert say.order(say.line(order)) == order

    @pytest.mark.parametrize("line", [b"", b"{}", b'{"type":"Finish"}', b"GET / HTTP/1.1\r\n", b"\xff"])
    def test_other_lines_are_refused(self, line):
        with pytest.raises(say.MessageError, match="not a message of this version"):
            say.report(line)


class TestJournal:
    def test_a_line_each_in_the_file_and_on_the_console(self, tmp_path):
        shown = []
        journal = Journal(tmp_path / "run" / "supervisor.jsonl", shown.append)
        journal.write("start", "attempt 1: 2 workers on a", attempt=1)
        journal.write("over", "all workers are done", status=0)
        events = read_journal(journal.path)
        assert [(event["event"], event["text"]) for event in events] == [
            ("start", "attempt 1: 2 workers on a"),
            ("over", "all workers are done"),
        ]
        assert events[0]["attempt"] == 1
        assert len(shown) == 2
        assert "attempt 1: 2 workers on a" in shown[0]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_does_not_end_the_supervisor(self, tmp_path):
        (tmp_path / "supervisor.jsonl").symlink_to("/dev/full")
        shown = []
        Journal(tmp_path / "supervisor.jsonl", shown.append).write("start", "attempt 1")
        assert "attempt 1" in shown[0]
        assert "could not be written: No space left on device" in shown[1]

    def test_torn_lines_are_passed_over(self, tmp_path):
        path = tmp_path / "journal"
        path.write_text('{"event": "a"}\n{"event": "b", "te\n[1]\n{"event": "c"}')
        assert [event["event"] for event in read_journal(path)] == ["a", "c"]

    def test_no_file(self, tmp_path):
        assert read_journal(tmp_path / "none") == []


class TestContinuing:
    def write(self, path, events):
        path.write_text("".join(json.dumps({"text": "", **event}) + "\n" for event in events))

    def test_numbers_go_on_and_cordons_stay(self, tmp_path):
        self.write(
            tmp_path / "journal",
            [
                {"event": "start", "attempt": 1, "hosts": ["a", "b", "c"]},
                {"event": "fault", "fault": 1, "reached": 40},
                {"event": "cordon", "place": "a:1"},
                {"event": "cordon", "place": "b:0"},
                {"event": "readmitted", "place": "b:0"},
                {"event": "start", "attempt": 2, "hosts": ["a", "b"]},
            ],
        )
        policy = continued(Rules(workers=2), tmp_path / "journal", tmp_path / "watch")
        assert (policy.attempt, policy.faults, policy.formed) == (2, 1, {"a", "b"})
        assert policy.progress.reached == 40
        policy.report("a", say.Hello("a", 3, "", 0), 1.0)
        policy.report("b", say.Hello("b", 1, "", 0), 1.0)
        assert policy.roster.ready() == [Place("a", 0), Place("a", 2), Place("b", 0)]

    def test_records_say_how_far_workers_came(self, tmp_path):
        self.write(tmp_path / "journal", [{"event": "start", "attempt": 1, "hosts": ["a"]}])
        flight.open(tmp_path / "watch" / "rank-00000", 0)
        flight.step(17)
        flight.close()
        assert continued(Rules(workers=1), tmp_path / "journal", tmp_path / "watch").progress.reached == 17

    def test_a_run_that_had_ended_may_be_formed_anew(self, tmp_path):
        self.write(
            tmp_path / "journal",
            [{"event": "start", "attempt": 1, "hosts": ["x"]}, {"event": "over", "status": 0}],
        )
        policy = continued(Rules(workers=1), tmp_path / "journal", tmp_path / "watch")
        decisions = policy.report("a", say.Hello("a", 1, "", 0), 1.0) + policy.tick(1.1)
        assert [note.event for note in decisions if isinstance(note, Note)] == ["joined", "start"]

    def test_nothing_before(self, tmp_path):
        policy = continued(Rules(workers=1), tmp_path / "journal", tmp_path / "watch")
        assert (policy.attempt, policy.faults, policy.formed) == (0, 0, set())


class TestVerdicts:
    def test_of_this_attempt_alone(self, tmp_path, monkeypatch):
        monkeypatch.setenv(flight.ATTEMPT, "4")
        path = leave_verdict(tmp_path, rank=3, by=1, what="other bits")
        assert path == tmp_path / "faults" / "verdict-rank-3.json"
        leave_verdict(tmp_path, rank=2, by=2, what="old", attempt=3)
        (tmp_path / "faults" / "verdict-rank-9.json").write_text("{")
        [found] = verdicts(tmp_path, 4)
        assert (found.rank, found.by, found.what) == (3, 1, "other bits")

    def test_none(self, tmp_path):
        assert verdicts(tmp_path, 1) == []


class TestWords:
    @pytest.mark.parametrize(
        ("exited", "text"),
        [
            (say.Exited(1, 1, -9, say.Digest(1, step=12, phase="step")), "rank 1 was killed by SIGKILL in step 12"),
            (
                say.Exited(1, 0, 1, say.Digest(0, step=12, phase="save"), "OSError: No space left on device"),
                "rank 0 ended with status 1 in phase 'save' after step 12: OSError: No space left on device",
            ),
            (say.Exited(1, 0, -60, say.Digest(0)), "rank 0 was killed by signal 60 before its first step"),
        ],
    )
    def test_endings(self, exited, text):
        assert ending(exited) == text

    def test_long_lists_are_cut(self):
        assert listed(map(str, range(10))) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


class TestAddress:
    def test_parts(self):
        assert Address.parse("10.0.0.1:29400", "--serve") == ("10.0.0.1", 29400)
        assert Address.parse("[::1]:29400", "--serve") == ("::1", 29400)

    @pytest.mark.parametrize("text", ["10.0.0.1", ":29400", "host:port"])
    def test_others_are_refused(self, text):
        with pytest.raises(UsageError, match="--join"):
            Address.parse(text, "--join")
