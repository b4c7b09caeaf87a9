"""The state machine alone: events in, decisions out, at made-up times."""

from __future__ import annotations

import random
import signal

import pytest

from homegrown.supervise import messages as say
from homegrown.supervise.attempt import Attempt
from homegrown.supervise.policy import Policy
from homegrown.supervise.rules import Drop, Note, Over, Rules, Send
from homegrown.supervise.states import Stopping, Waiting


class World:
    """A policy with hosts that do as they are told, and a clock."""

    def __init__(self, slots=(2,), policy=None, **rules):
        rules = {"workers": sum(slots), "backoff": 0.0, "settle": 0.0, "lease": 10.0, "patience": 0.0, **rules}
        self.policy = policy or Policy(Rules(home="a", **rules))
        self.now = 100.0
        self.notes: list[Note] = []
        self.orders: list[tuple[str, say.Order]] = []
        self.drops: list[str] = []
        self.over: Over | None = None
        self.silent: set[str] = set()
        self.tests = True  # what self-tests find
        self.seats: dict[int, tuple[str, int]] = {}
        for name, count in zip("abcdefgh", slots, strict=False):
            self.hello(name, count)
        self.tick()

    def do(self, decisions):
        for decision in decisions:
            match decision:
                case Note():
                    self.notes.append(decision)
                case Drop():
                    self.drops.append(decision.host)
                case Over():
                    self.over = decision
                case Send():
                    self.orders.append((decision.host, decision.order))
                    self.obey(decision.host, decision.order)

    def obey(self, host, order):
        if host in self.silent:
            return
        if isinstance(order, say.Start):
            if order.attempt != self.attempt:
                self.seats = {}
            self.attempt = order.attempt
            self.seats |= {seat.rank: (host, seat.slot) for seat in order.seats}
        elif isinstance(order, say.Stop):
            self.do(self.policy.report(host, say.Idle(order.attempt, 4000 + len(self.orders)), self.now))
        elif isinstance(order, say.Test) and self.tests is not None:
            self.do(self.policy.report(host, say.Tested(order.slot, self.tests), self.now))

    attempt = 0

    def hello(self, name, slots, attempt=0):
        self.do(self.policy.report(name, say.Hello(name, slots, f"10.0.0.{name}", 3000, attempt), self.now))

    def tick(self, seconds=0.1):
        self.now += seconds
        self.do(self.policy.tick(self.now))

    def beat(self, step=1, first=1, **digests):
        """All hosts report; every rank is in `step` unless a digest `r1=...` says otherwise."""
        for host in dict.fromkeys(place[0] for place in self.seats.values()):
            if host not in self.silent:
                mine = [rank for rank, place in self.seats.items() if place[0] == host]
                plain = {rank: say.Digest(rank, phase="step", first=first, step=step) for rank in mine}
                told = [digests.get(f"r{rank}", plain[rank]) for rank in mine]
                self.do(self.policy.report(host, say.Beat(self.attempt, told), self.now))

    def pause(self, seconds):
        """Time passes while everybody beats."""
        for _ in range(int(seconds)):
            self.beat()
            self.tick(1.0)

    def exit(self, rank, code, step=5, said="", blames=(), attempt=None):
        host = self.seats[rank][0]
        digest = say.Digest(rank, state="X", phase="step", first=1, step=step)
        self.do(
            self.policy.report(
                host, say.Exited(attempt or self.attempt, rank, code, digest, said, list(blames)), self.now
            )
        )

    def told(self, event):
        return [note.text for note in self.notes if note.event == event]

    def last(self, event):
        return [note for note in self.notes if note.event == event][-1]


class TestStarting:
    def test_ranks_are_seated_in_order_and_told_where_to_meet(self):
        world = World(slots=(2, 2), hosts=2)
        starts = {host: order for host, order in world.orders if isinstance(order, say.Start)}
        assert starts["a"] == say.Start(1, 4, "10.0.0.a", 3000, 0, [say.Seat(0, 0), say.Seat(1, 1)])
        assert starts["b"] == say.Start(1, 4, "10.0.0.a", 3000, 1, [say.Seat(2, 0), say.Seat(3, 1)])

    def test_it_waits_for_all_hosts(self):
        world = World(slots=(2,), workers=4, hosts=2)
        assert world.told("waiting") == ["waits for 1 more host to join"]
        world.tick(1000.0)
        assert isinstance(world.policy.state, Waiting)
        assert len(world.told("waiting")) == 1, "said once"
        world.hello("b", 2)
        world.tick()
        assert isinstance(world.policy.state, Attempt)

    def test_spares_stay_free(self):
        world = World(slots=(3,), workers=2)
        assert world.seats == {0: ("a", 0), 1: ("a", 1)}

    def test_training_is_noted_when_every_rank_has_begun_a_step(self):
        world = World()
        world.beat(r1=say.Digest(1))
        assert world.told("training") == []
        world.beat(step=3)
        assert world.told("training") == ["attempt 1 trains from step 1"]
        world.beat(step=4)
        assert len(world.told("training")) == 1


class TestFaults:
    def test_a_killed_worker_restarts_all(self):
        world = World()
        world.beat(step=7)
        world.exit(1, -9, step=7)
        world.tick()
        assert world.last("fault").text == (
            "fault 1 in attempt 1: rank 1 was killed by SIGKILL in step 7 (restart 1 of 10 without progress)"
        )
        assert ("a", say.Stop(1, 1)) in world.orders
        world.tick()
        assert (world.attempt, world.policy.attempt) == (2, 2)
        world.beat(step=5, first=4)
        assert world.last("training").text == "attempt 2 trains from step 4; 3 steps done again"
        assert world.last("training").facts["lost_steps"] == 3

    def test_the_port_is_a_fresh_one(self):
        world = World()
        world.exit(0, -9)
        world.tick()
        world.tick()
        ports = [order.port for _, order in world.orders if isinstance(order, say.Start)]
        assert len(set(ports)) == 2

    def test_deaths_are_looked_at_together(self):
        """The survivor of a lost connection is found dead first; the signal is the cause."""
        world = World(settle=0.5)
        world.exit(0, 1, said="RuntimeError: Connection reset by peer")
        world.tick(0.2)
        assert world.told("fault") == []
        world.exit(1, -9)
        world.tick(0.4)
        assert "rank 1 was killed by SIGKILL" in world.told("fault")[0]
        assert world.last("fault").facts["culprits"] == [1]

    def test_the_abort_of_a_survivor_accuses_nobody(self):
        world = World(slots=(3,), workers=2, settle=0.5, strikes=1)
        world.exit(0, -6)
        world.exit(1, 1, said="boom")
        world.tick(1.0)
        assert world.last("fault").facts["kind"] == "failed"
        assert world.told("cordon") == []

    def test_a_command_that_cannot_work_is_not_repeated(self):
        world = World()
        world.exit(0, 2, step=-1, said="homegrown train: steps = 0: must be at least 1")
        world.exit(1, 1, step=-1)
        world.tick()
        world.tick()
        assert world.over == Over(
            2,
            "a restart would end alike: rank 0 ended with status 2 before its first step: "
            "homegrown train: steps = 0: must be at least 1",
        )

    def test_old_reports_are_ignored(self):
        world = World()
        world.exit(1, -9)
        world.tick()
        world.tick()
        world.exit(0, -9, attempt=1)
        world.tick()
        assert len(world.told("fault")) == 1

    def test_a_report_that_comes_twice_counts_once(self):
        world = World(slots=(2,), settle=1.0)
        for _ in range(3):
            world.exit(1, -9)
        world.tick(1.0)
        assert len(world.told("fault")) == 1

    def test_hang(self):
        world = World(hang_after=30.0)
        inside = say.Waiting("all_gather", "world", "0-1", 9, 31.0)
        world.beat(
            r0=say.Digest(0, age=31.0, phase="step", step=5, waiting=inside, entered={"world": 9}),
            r1=say.Digest(1, age=40.0, phase="step", step=5, state="T", entered={"world": 8}),
        )
        world.tests = None
        world.tick()
        fault = world.last("fault").facts
        assert (fault["kind"], fault["culprits"], fault["waiting"], fault["missing"]) == ("hang", [1], "0", "1")
        assert (fault["collective"], fault["group"], fault["sequence"]) == ("all_gather", "world", 9)
        assert ("a", say.Stop(1, 1, stacks=True)) in world.orders
        assert world.told("cordon") == ["slot a:1 is cordoned: hang"]

    def test_a_finished_rank_is_not_waited_for(self):
        world = World(hang_after=30.0)
        world.exit(1, 0)
        inside = say.Waiting("all_gather", "world", "0-1", 9, 31.0)
        world.beat(r0=say.Digest(0, age=31.0, phase="step", step=5, waiting=inside, entered={"world": 9}))
        world.tick()
        assert world.last("fault").facts["missing"] == "1"

    def test_stall(self):
        world = World(stall_after=60.0)
        world.beat(**{f"r{rank}": say.Digest(rank, age=61.0, phase="step", step=5) for rank in (0, 1)})
        world.tick()
        assert world.last("fault").facts["kind"] == "stall"

    def test_stall_can_be_turned_off(self):
        world = World(stall_after=0.0)
        world.beat(**{f"r{rank}": say.Digest(rank, age=1e9, phase="step", step=5) for rank in (0, 1)})
        world.tick()
        assert world.told("fault") == []


class TestBudget:
    def fail(self, world, step):
        world.beat(step=step)
        world.exit(0, 1, step=step, said="boom")
        world.tick()
        world.tick()

    def test_restarts_without_progress_are_counted_and_paused_longer_each_time(self):
        world = World(max_restarts=3, backoff=2.0, backoff_limit=5.0)
        pauses = []
        for _ in range(4):
            world.beat(step=7)
            world.exit(0, 1, step=7, said="boom")
            world.tick()
            world.tick()
            if isinstance(world.policy.state, Waiting):
                pauses.append(world.policy.state.not_before - world.policy.state.since)
                world.tick(1.0)
                world.tick(pauses[-1])
        assert pauses == [2.0, 4.0, 5.0]
        assert world.over.status == 1
        assert world.over.reason.startswith("3 restarts in a row brought no progress; last: rank 0 ended with status 1")

    def test_progress_renews_the_budget(self):
        world = World(max_restarts=2)
        for step in range(1, 30):
            self.fail(world, step)
        assert world.over is None
        assert world.last("fault").text.endswith("(restart 1 of 2 without progress)")

    def test_no_restarts_at_all(self):
        world = World(max_restarts=0)
        self.fail(world, 3)
        assert world.over.status == 1


class TestCordon:
    def kill(self, world, rank, step):
        world.beat(step=step)
        world.exit(rank, -9, step=step)
        for _ in range(3):  # it is stopped; tests are ordered; it starts
            world.tick()

    def test_a_slot_whose_workers_are_killed_again_is_replaced_by_a_spare(self):
        world = World(slots=(3,), workers=2)
        world.tests = None
        self.kill(world, 1, 5)
        assert world.seats[1] == ("a", 1)
        self.kill(world, 1, 10)
        assert world.told("cordon") == ["slot a:1 is cordoned: killed"]
        assert world.seats == {0: ("a", 0), 1: ("a", 2)}, "the other rank keeps its place"
        assert ("a", say.Test(1)) in world.orders, "tested while the run goes on"

    def test_a_slot_that_passes_its_test_at_once_becomes_the_spare(self):
        world = World(slots=(3,), workers=2, strikes=1)
        self.kill(world, 0, 5)
        assert world.told("readmitted")
        assert world.seats == {0: ("a", 2), 1: ("a", 1)}
        self.kill(world, 1, 10)
        assert world.seats == {0: ("a", 2), 1: ("a", 0)}, "a doubtful one is better than none"

    def test_errors_of_the_program_do_not_cordon(self):
        world = World(slots=(3,), workers=2)
        for step in (5, 10, 15):
            world.beat(step=step)
            world.exit(1, 1, step=step)
            world.tick()
            world.tick()
        assert world.told("cordon") == []

    def test_a_verdict_names_another_rank_than_its_writer(self):
        world = World(slots=(3,), workers=2)
        world.tests = None
        world.exit(0, 86, blames=[say.Blame(1, "other bits")])
        world.tick()
        assert world.last("fault").text.startswith("fault 1 in attempt 1: rank 1 computes wrong results: other bits")
        assert world.told("cordon") == ["slot a:1 is cordoned: corrupt"]

    def test_without_a_spare_the_slot_is_tested_before_the_restart(self):
        world = World(strikes=1)
        world.tests = None
        self.kill(world, 1, 5)
        assert world.told("waiting")[-1] == "waits for the self-test of a:1"
        world.do(world.policy.report("a", say.Tested(1, True), world.now))
        world.tick()
        assert world.told("readmitted") == ["slot a:1 passed its self-test and may be used again"]
        assert world.attempt == 2

    def test_a_failed_self_test_leaves_the_run_with_fewer_workers(self):
        world = World(strikes=1, min_workers=1)
        world.tests = False
        self.kill(world, 0, 5)
        assert world.attempt == 2
        assert world.seats == {0: ("a", 1)}
        assert world.last("start").text == "attempt 2: 1 worker on a, fewer than the 2 wanted"

    def test_or_ends_it_if_it_needs_them_all(self):
        world = World(strikes=1)
        world.tests = False
        self.kill(world, 0, 5)
        assert world.over == Over(1, "slots: 1 can be used, and the run needs 2")

    def test_a_slot_that_failed_may_try_again_at_the_next_restart(self):
        world = World(slots=(3,), workers=2, strikes=1)
        world.tests = False
        self.kill(world, 0, 5)
        world.tests = True
        self.kill(world, 0, 10)
        world.exit(1, 1, step=15)
        world.tick()
        world.tick()
        assert len(world.told("readmitted")) == 2

    def test_cordoned_too_often_is_out_for_good(self):
        world = World(slots=(2,), strikes=1, cordons=2, min_workers=1)
        self.kill(world, 0, 5)
        assert len(world.seats) == 2
        self.kill(world, 0, 10)
        assert world.told("cordon")[-1] == "slot a:0 is cordoned for good: killed"
        assert world.seats == {0: ("a", 1)}

    def test_only_sizes_that_fit_are_tried(self):
        world = World(slots=(8,), strikes=1, min_workers=2, fits=lambda size: size in (1, 2, 4, 8))
        world.tests = False
        self.kill(world, 3, 5)
        assert [place[1] for place in world.seats.values()] == [0, 1, 2, 4]

    def slow(self, world, steps=range(1, 6)):
        for step in steps:
            world.beat(
                r0=say.Digest(0, phase="step", first=1, step=step, times=[(step, 1.0, 0.5)]),
                r1=say.Digest(1, phase="step", first=1, step=step, times=[(step, 1.0, 0.0)]),
            )
        world.tick()

    def test_a_slow_rank_is_named(self):
        world = World()
        self.slow(world)
        assert world.told("slow") == ["rank 1 (a:1) takes 2.0 times as long as the others, for 5 steps now"]
        assert world.told("fault") == []

    def test_and_replaced_if_asked(self):
        world = World(slots=(3,), workers=2, cordon_slow=1.8)
        world.tests = None
        self.slow(world)
        world.tick()
        assert world.told("cordon") == ["slot a:1 is cordoned: slow"]
        assert world.seats[1] == ("a", 2)

    def test_but_not_if_nobody_can_take_its_place(self):
        world = World(cordon_slow=1.8)
        self.slow(world)
        assert world.told("kept") == ["rank 1 stays: there is no spare slot, and the run needs them all"]
        assert world.told("fault") == []


class TestHosts:
    def lose(self, world, name):
        """A host falls silent until its lease is over."""
        world.silent.add(name)
        for _ in range(12):
            world.tick(1.0)
            for other in set(world.policy.roster.hosts) - world.silent:
                world.do(world.policy.report(other, say.Beat(world.attempt), world.now))

    def test_a_silent_host_is_lost_only_after_its_lease(self):
        world = World(slots=(1, 1, 1), hosts=3, min_workers=2)
        world.silent.add("c")
        for _ in range(10):
            world.tick(1.0)
            for host in "ab":
                world.do(world.policy.report(host, say.Beat(1), world.now))
        assert world.told("host lost") == []
        world.tick(1.5)
        assert world.told("host lost") == ["c was not heard of for 11 s, by which its agent has ended its workers"]
        world.tick()
        assert world.drops == ["c"]
        assert (world.attempt, world.seats) == (2, {0: ("a", 0), 1: ("b", 0)})

    def test_nothing_starts_while_a_host_may_still_have_workers(self):
        world = World(slots=(1, 1, 1), hosts=3, min_workers=2)
        world.silent.add("c")
        world.do(world.policy.disconnected("c"))
        world.exit(0, 1, said="Connection reset by peer")
        world.tick()
        world.tick(1.0)
        assert isinstance(world.policy.state, Stopping)
        assert "waits for the workers of c to end" in world.policy.status
        self.lose(world, "c")
        world.tick()
        assert world.attempt == 2

    def test_no_majority_no_run(self):
        world = World(slots=(1, 1, 1), hosts=3, min_workers=1)
        world.silent.add("b")
        self.lose(world, "c")
        world.tick()
        assert world.told("waiting")[-1] == "waits for a majority of a, b, c; there: a"
        for _ in range(50):
            world.tick(1.0)
            world.do(world.policy.report("a", say.Beat(0), world.now))
        assert world.attempt == 1
        world.silent.clear()
        world.hello("b", 1)
        world.tick()
        assert world.seats == {0: ("a", 0), 1: ("b", 0)}

    def test_half_is_enough_with_the_controller_s_host(self):
        world = World(slots=(1, 1), hosts=2, min_workers=1)
        self.lose(world, "b")
        world.tick()
        assert world.seats == {0: ("a", 0)}

    def test_a_lost_host_has_time_to_come_back(self):
        world = World(slots=(1, 1), hosts=2, min_workers=1, patience=30.0)
        self.lose(world, "b")
        world.tick()
        assert world.told("waiting")[-1] == "waits for b to come back, 30 s at most"
        world.silent.clear()
        world.hello("b", 1)
        world.tick()
        assert len(world.seats) == 2

    def test_a_host_that_comes_late_joins_at_the_next_restart(self):
        world = World(slots=(1, 1), hosts=2, min_workers=1)
        self.lose(world, "b")
        world.tick()
        world.silent.clear()
        world.hello("b", 1)
        world.pause(5)
        assert len(world.seats) == 1, "the run is not disturbed"
        world.exit(0, -9)
        world.tick()
        world.tick()
        assert len(world.seats) == 2

    def test_a_broken_connection_that_comes_back_changes_nothing(self):
        world = World(slots=(1, 1), hosts=2)
        world.do(world.policy.disconnected("b"))
        world.tick(1.0)
        world.hello("b", 1, attempt=1)
        world.pause(20)
        assert world.told("fault") == []

    def test_an_agent_that_lost_its_workers_restarts_the_run(self):
        world = World(slots=(1, 1), hosts=2)
        world.hello("b", 1, attempt=0)
        world.tick()
        world.tick()
        assert "b lost its workers" in world.told("fault")[0]
        assert world.attempt == 2

    def test_workers_of_an_old_attempt_are_stopped(self):
        world = World(slots=(1, 1, 1), hosts=3, min_workers=2)
        self.lose(world, "c")
        world.tick()
        world.silent.clear()
        world.hello("c", 1, attempt=1)
        assert ("c", say.Stop(1)) in world.orders

    def test_the_controller_s_own_sleep_is_nobody_s_fault(self):
        world = World(slots=(1, 1), hosts=2)
        world.tick(3600.0)
        assert world.told("host lost") == []

    def test_a_host_that_leaves_is_saved_from(self):
        world = World(slots=(1, 1), hosts=2, min_workers=1)
        world.beat(step=8)
        world.do(world.policy.report("b", say.Leaving(), world.now))
        assert [host for host, order in world.orders if isinstance(order, say.Forward)] == ["a", "b"]
        for rank in (0, 1):
            world.exit(rank, 143, step=8)
        world.tick()
        world.tick()
        assert world.told("fault") == []
        assert ("b", say.Finish(0, "b has left the run")) in world.orders
        assert world.seats == {0: ("a", 0)}

    def test_a_signal_while_a_host_leaves_ends_the_run_without_a_second_signal(self):
        world = World(slots=(1, 1), hosts=2, min_workers=1)
        world.do(world.policy.report("b", say.Leaving(), world.now))
        world.do(world.policy.interrupt(signal.SIGTERM, world.now))
        assert len([order for _, order in world.orders if isinstance(order, say.Forward)]) == 2, "one for each host"
        for rank in (0, 1):
            world.exit(rank, 143, step=8)
        world.tick()
        assert world.over == Over(143, "stopped by SIGTERM in step 8")


class TestEnd:
    def test_all_done(self):
        world = World()
        world.exit(0, 0)
        assert world.over is None
        world.exit(1, 0)
        world.tick()
        assert world.over == Over(0, "all workers are done")
        assert ("a", say.Finish(0, "all workers are done")) in world.orders

    def test_a_signal_lets_workers_save(self):
        world = World()
        world.beat(step=5)
        world.do(world.policy.interrupt(signal.SIGTERM, world.now))
        assert ("a", say.Forward(15)) in world.orders
        for rank in (0, 1):
            world.exit(rank, 143, step=6)
        world.tick()
        assert world.over == Over(143, "stopped by SIGTERM in step 6")
        assert world.told("fault") == []

    def test_a_second_signal_does_not_wait(self):
        world = World()
        world.do(world.policy.interrupt(signal.SIGINT, world.now))
        world.exit(0, 130)
        world.do(world.policy.interrupt(signal.SIGINT, world.now))
        world.tick()
        world.tick()
        assert world.over == Over(130, "stopped by SIGINT in step 5, 1 worker killed")

    def test_grace_ends(self):
        world = World(grace=20.0)
        world.do(world.policy.interrupt(signal.SIGTERM, world.now))
        world.pause(19)
        assert world.over is None
        world.pause(2)
        assert world.over.status == 143

    def test_a_signal_between_attempts(self):
        world = World(backoff=100.0)
        world.exit(0, -9)
        world.tick()
        world.tick()
        world.do(world.policy.interrupt(signal.SIGTERM, world.now))
        assert world.over == Over(143, "stopped by SIGTERM")

    def test_a_run_that_ended_before_the_signal_reached_it_ended_well(self):
        world = World()
        world.do(world.policy.interrupt(signal.SIGTERM, world.now))
        world.exit(0, 0)
        world.exit(1, 0)
        world.tick()
        assert world.over.status == 0

    def test_whoever_comes_after_the_end_is_told(self):
        world = World()
        world.exit(0, 0)
        world.exit(1, 0)
        world.tick()
        world.hello("z", 1)
        assert world.orders[-1] == ("z", say.Finish(0, "all workers are done"))


def test_status_says_what_it_waits_for_and_what_budget_is_left():
    world = World(backoff=5.0)
    world.beat(step=4)
    assert world.policy.status == "attempt 1 is in step 4 with 2 workers; restarts without progress: 0 of 10"
    world.exit(0, -9)
    world.tick()
    world.tick()
    assert world.policy.status == ("no attempt is on, waits for 5 s of back-off; restarts without progress: 1 of 10")


class Truth(World):
    """A world whose hosts really have workers: they end on Stop, or when an agent that hears nothing fences them."""

    def __init__(self, **rules):
        self.running = dict.fromkeys("abc", 0)
        self.contact = dict.fromkeys("abc", 100.0)
        super().__init__(slots=(2, 2, 2), hosts=3, **rules)

    def obey(self, host, order):
        if host in self.silent:
            return
        if isinstance(order, say.Start):
            alive = {name: attempt for name, attempt in self.running.items() if attempt not in (0, order.attempt)}
            assert not alive, f"attempt {order.attempt} starts while {alive} live"
            self.running[host] = order.attempt
        elif isinstance(order, say.Stop):
            self.running[host] = 0
        super().obey(host, order)

    def pass_time(self, seconds):
        for host in "abc":
            if host not in self.silent:
                self.contact[host] = self.now
                self.do(self.policy.report(host, say.Beat(self.running[host]), self.now))
        self.now += seconds
        for host in self.silent:
            if self.now - self.contact[host] >= self.policy.rules.lease:
                self.running[host] = 0
        self.do(self.policy.tick(self.now))

    def come_back(self, host, crashed):
        self.silent.discard(host)
        self.contact[host] = self.now
        if crashed:
            self.running[host] = 0
        self.do(self.policy.disconnected(host))
        self.hello(host, 2, attempt=self.running[host])


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_no_two_attempts_live_at_once(seed):
    """Deaths, silences, crashed agents and returns at random; `Truth.obey` checks at every start."""
    rng = random.Random(seed)
    world = Truth(min_workers=2, strikes=1, lease=5.0, max_restarts=10**9, cordons=10**9)
    for _ in range(400):
        match rng.randrange(6):
            case 0:
                living = [rank for rank, place in world.seats.items() if world.running[place[0]] == world.attempt]
                if living:
                    rank = rng.choice(living)
                    if world.seats[rank][0] not in world.silent:
                        world.exit(rank, rng.choice([1, -9, -6, 86, 143]), step=rng.randrange(50))
            case 1:
                world.silent |= {rng.choice("bc")}
            case 2:
                world.come_back(rng.choice("abc"), crashed=rng.random() < 0.5)
            case 3:
                world.tests = rng.choice([True, False])
        world.pass_time(rng.choice([0.1, 1.0, 1.9]))
    starts = [note.facts["attempt"] for note in world.notes if note.event == "start"]
    assert starts == list(range(1, len(starts) + 1))
    assert world.over is None
    for host in "abc":
        world.come_back(host, crashed=False)
    world.tests = True
    for _ in range(30):
        world.pass_time(1.0)
    assert isinstance(world.policy.state, Attempt), "when all is well again, it trains again"
