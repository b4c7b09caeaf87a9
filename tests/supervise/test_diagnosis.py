"""Who hangs and who is slow, from made-up digests."""

from __future__ import annotations

import math

import pytest

from homegrown.supervise.diagnosis import Ranking, find_hang, find_stall
from homegrown.supervise.messages import Digest, Waiting


def waits(rank, group="world", ranks="0-3", sequence=7, seconds=20.0, op="all_reduce", **entered):
    inside = Waiting(op, group, ranks, sequence, seconds)
    return Digest(rank, age=seconds, phase="step", step=5, waiting=inside, entered={group: sequence, **entered})


def works(rank, age=20.0, **more):
    return Digest(rank, **{"age": age, "phase": "step", "step": 5, "entered": {"world": 6}, **more})


def hang(*digests, after=10.0, stall=math.inf):
    return find_hang({digest.rank: digest for digest in digests}, after, stall)


class TestHang:
    def test_the_one_that_did_not_come_is_named(self):
        found = hang(waits(0), waits(1), works(2), waits(3))
        assert (found.op, found.group, found.sequence) == ("all_reduce", "world", 7)
        assert (found.waiting, found.missing, found.culprits) == ((0, 1, 3), (2,), (2,))
        assert found.text == (
            "ranks 0-1,3 waited more than 10 s in all_reduce number 7 of group 'world'; rank 2 did not come to it"
        )

    def test_a_stopped_process_is_called_stopped(self):
        found = hang(waits(0), waits(1), works(2, state="T"), waits(3))
        assert found.text.endswith("rank 2 did not come to it; stopped by a signal: rank 2")

    def test_whoever_still_moves_does_not_hang(self):
        assert hang(waits(0), waits(1), works(2, age=1.0), waits(3)) is None

    def test_short_waits_are_no_hang(self):
        assert hang(*(waits(rank, seconds=9.0) for rank in range(3)), works(3, age=9.0)) is None

    def test_a_slow_member_far_away_excuses_those_who_wait_for_its_partner(self):
        """0 waits for 1, and 1 for 2, which still works."""
        assert hang(waits(0, "a", "0-1"), waits(1, "b", "1-2"), works(2, age=1.0)) is not None
        chain = [waits(0, "a", "0-1"), waits(1, "b", "1-2", seconds=5.0), works(2, age=1.0)]
        assert hang(*chain) is None, "1 came to its collective a moment ago"

    def test_the_cause_is_found_at_the_end_of_a_chain(self):
        found = hang(waits(0, "a", "0-1"), waits(1, "b", "1-2"), works(2, entered={}))
        assert (found.group, found.culprits) == ("b", (2,))

    def test_ranks_that_wait_for_each_other_are_nobody_s_fault(self):
        found = hang(waits(0, "a", "0-1", b=6), waits(1, "b", "0-1", a=6))
        assert found.culprits == ()
        assert found.missing in ((0,), (1,))

    def test_all_have_come(self):
        found = hang(*(waits(rank) for rank in range(4)))
        assert (found.missing, found.culprits) == ((), ())
        assert found.text.endswith("all came to it, so the transport is stuck")

    def test_one_that_has_left_the_collective_already_is_not_missing(self):
        found = hang(waits(0), waits(1), works(2, entered={"world": 7}), works(3))
        assert found.missing == (3,)

    def test_ranks_at_different_collectives_of_one_group(self):
        found = hang(waits(0, sequence=7), waits(1, sequence=7), waits(2, sequence=6), waits(3, sequence=7))
        assert found.waiting == (0, 1, 3)
        assert (found.missing, found.culprits) == ((2,), ())

    @pytest.mark.parametrize(("phase", "age", "found"), [("load", 20, False), ("load", 70, True), ("step", 20, True)])
    def test_what_is_no_step_may_take_longer(self, phase, age, found):
        others = [waits(rank, seconds=70.0) for rank in (0, 1, 3)]
        assert (hang(*others, works(2, age=age, phase=phase), stall=60.0) is not None) == found

    def test_unless_it_was_stopped(self):
        assert hang(waits(0), waits(1), works(2, phase="load", state="T"), waits(3), stall=60.0) is not None

    def test_a_rank_that_is_not_known_is_left_out(self):
        assert hang(waits(0), waits(1), waits(3)).missing == ()

    def test_nobody(self):
        assert hang() is None


class TestStall:
    def test_all_stand_still(self):
        found = find_stall({0: works(0, age=100), 1: works(1, age=90, state="T")}, 60)
        assert found.culprits == (1,)
        assert found.text.startswith("no rank has moved for 60 s")

    def test_one_moves(self):
        assert find_stall({0: works(0, age=100), 1: works(1, age=10)}, 60) is None

    def test_nobody(self):
        assert find_stall({}, 60) is None


class TestRanking:
    @staticmethod
    def feed(ranking, table, first=1):
        """Own seconds by rank, a row for each step; each rank waited until the slowest was done."""
        found = []
        for step, row in enumerate(table, first):
            longest = max(row)
            for rank, own in enumerate(row):
                found += ranking.add(Digest(rank, times=[(step, longest, longest - own)]))
        return found

    def test_slow_in_a_row(self):
        ranking = Ranking(3, factor=1.5, steps=3)
        found = self.feed(ranking, [[0.1, 0.2, 0.1], [0.1, 0.3, 0.1], [0.1, 0.25, 0.1]])
        assert [(slow.rank, round(slow.factor, 6), slow.step) for slow in found] == [(1, 2.0, 3)]

    def test_named_once_until_it_recovers(self):
        ranking = Ranking(3, factor=1.5, steps=2)
        slow, level = [0.1, 0.2, 0.1], [0.1, 0.1, 0.1]
        assert len(self.feed(ranking, [slow] * 10)) == 1
        assert len(self.feed(ranking, [level, slow, slow], first=11)) == 1

    def test_now_and_then_is_no_row(self):
        ranking = Ranking(3, factor=1.5, steps=2)
        assert self.feed(ranking, [[0.1, 0.2, 0.1], [0.2, 0.1, 0.1]] * 5) == []

    def test_of_two_the_other_is_the_measure(self):
        assert [slow.rank for slow in self.feed(Ranking(2, factor=1.5, steps=2), [[0.3, 0.1]] * 2)] == [0]

    def test_noise_of_tiny_steps_counts_for_nothing(self):
        assert self.feed(Ranking(2, factor=1.5, steps=2), [[0.0015, 0.0001]] * 5) == []

    def test_alone_nobody_is_slow(self):
        assert self.feed(Ranking(1, factor=1.5, steps=1), [[1.0], [9.0]]) == []

    def test_a_step_that_one_rank_never_told_is_forgotten(self):
        ranking = Ranking(2, factor=1.5, steps=1)
        for step in range(1000):
            ranking.add(Digest(0, times=[(step, 1.0, 0.0)]))
        assert len(ranking._open) <= 64
