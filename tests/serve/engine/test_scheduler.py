"""What runs next, without a model: passes are only counted."""

import itertools
import statistics
import time

import pytest
import torch

from homegrown.serve.engine.cost import Work
from homegrown.serve.engine.memory import KeyMemory
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.engine.pages import PagePool
from homegrown.serve.engine.scheduler import LEAST, Plan, Scheduler
from homegrown.serve.engine.sequence import Sequence

from ..tiny import tiny_config
from .driving import request

PAGE = 8


class Line:
    """A scheduler with sequences whose passes end at once: each new token is 9, each prompt's tokens are its own."""

    def __init__(self, pages=64, drafts=0, seconds=None, **options):
        self.options = EngineOptions(page_size=PAGE, pages=pages, **{"chunk": 32, "max_running": 8, **options})
        self.memory = KeyMemory(_pool(pages), self.options, drafts)
        self.scheduler = Scheduler(self.options, self.memory, drafts)
        self.orders = itertools.count(1)
        self.seconds = seconds

    def add(self, name, length, most=100, same=None, **fields):
        prompt = [hash(same or name) % 1000 + 10] * length
        sequence = Sequence(request(name, prompt, **fields), next(self.orders), None, length + most)
        self.scheduler.add(sequence)
        return sequence

    def step(self, times=1) -> Plan:
        for _ in range(times):
            plan = self.scheduler.schedule()
            for piece in plan.pieces:
                new = piece.ends
                piece.sequence.computed += piece.count
                self.memory.publish(piece.sequence)
                if new:
                    piece.sequence.tokens.append(9)
                    self.scheduler.queue.answered(piece.sequence, 1)
                    if len(piece.sequence.tokens) == piece.sequence.longest:
                        self.scheduler.remove(piece.sequence)
            if self.seconds:
                self.scheduler.cost.observe(plan.work, self.seconds(plan.work))
        return plan

    def running(self):
        return set(self.scheduler.running)


def _pool(pages):
    return PagePool(tiny_config(num_layers=1), pages, PAGE, "cpu", torch.float32, False)


def pieces(plan):
    return [(piece.sequence.id, piece.kind, piece.count) for piece in plan.pieces]


class TestPrompts:
    def test_answers_come_first_and_prompts_share_the_chunk(self):
        line = Line()
        line.add("a", 5)
        line.step()
        line.add("b", 20)
        line.add("c", 40)
        assert pieces(line.step()) == [("a", "answer", 1), ("b", "prompt", 20), ("c", "prompt", 12)]
        assert pieces(line.step()) == [("a", "answer", 1), ("b", "answer", 1), ("c", "prompt", 28)]

    def test_short_ones_pass_long_ones_which_get_their_turn(self):
        line = Line(pages=400)
        line.add("long", 2000)
        served = []
        for number in range(16):
            line.add(f"short {number}", 32, most=1)
            served.append(line.step().pieces[0].sequence.id)
        assert served.count("long") == 4
        assert served[:3] == ["short 0", "short 1", "short 2"]

    def test_a_step_takes_no_longer_than_it_may(self):
        line = Line(
            pages=400, chunk=512, step_ms=50, seconds=lambda work: 0.002 + 1e-3 * work.prefill + 0.003 * work.rows
        )
        line.add("a", 4, most=1000)
        line.step(20)
        line.add("long", 1000)
        line.step(5)  # while it learns what a prompt's token costs
        for _ in range(10):
            plan = line.step()
            assert pieces(plan)[0] == ("a", "answer", 1)
            assert 0.030 < line.seconds(plan.work) < 0.052

    def test_a_long_past_makes_portions_smaller(self):
        line = Line(
            pages=800, chunk=512, step_ms=50, seconds=lambda work: 0.001 + 1e-4 * work.prefill + 1e-7 * work.keys
        )
        line.add("a", 4, most=1000)
        line.step(5)
        line.add("long", 6000)
        counts = []
        while line.scheduler.running.get("long") is None or line.scheduler.running["long"].prefilling:
            plan = line.step()
            counts += [piece.count for piece in plan.pieces if piece.kind == "prompt"]
            if len(counts) > 5:
                assert line.seconds(plan.work) < 0.055
        assert counts[-2] < counts[5]

    def test_some_of_a_prompt_joins_every_step_whatever_it_takes(self):
        line = Line(step_ms=1, seconds=lambda work: 1.0)
        line.add("a", 4)
        line.step(3)
        line.add("b", 60)
        assert [line.step().pieces[1].count for _ in range(4)] == [LEAST, LEAST, LEAST, 60 - 3 * LEAST]

    def test_nobody_to_disturb(self):
        line = Line(step_ms=1, seconds=lambda work: 1.0)
        line.add("a", 60)
        assert [line.step().pieces[0].count for _ in range(2)] == [32, 28]

    def test_chunks_of_invariant_mode_end_at_multiples(self):
        line = Line(pages=40, invariant=True, chunk=32, step_ms=1, seconds=lambda work: 1.0)
        line.add("a", 4)
        line.step(3)
        line.add("b", 70)
        line.add("c", 80)
        found = [[piece for piece in pieces(line.step()) if piece[1] == "prompt"] for _ in range(6)]
        assert {len(prompts) for prompts in found} == {1}
        counts = {name: [count for ((other, _, count),) in found if other == name] for name in "bc"}
        assert counts == {"b": [32, 32, 6], "c": [32, 32, 16]}


class TestRoom:
    def test_admits_what_fits(self):
        line = Line(pages=10)
        line.add("a", 30)
        line.add("b", 30)
        line.add("c", 30)
        line.step()
        assert line.running() == {"a", "b"} or line.running() == {"a"}
        assert len(line.scheduler.queue) == 3 - len(line.running())
        assert line.memory.available >= 2 * (len(line.running()) - 1)

    def test_newest_of_the_lowest_priority_makes_room(self):
        line = Line(pages=12)
        for name, priority in (("old", 0), ("high", 1), ("new", 0)):
            line.add(name, 14, priority=priority)
            line.step()
        while not line.scheduler.preempted:
            line.step()
        assert line.running() == {"old", "high"}
        assert line.scheduler.queue.first().id == "new"

    def test_whoever_made_room_returns_first(self):
        line = Line(pages=12, host_pages=8)
        for name in ("old", "new"):
            line.add(name, 20, most=60)
            line.step()
        line.add("waiting", 30, most=60)
        while not line.scheduler.preempted:
            line.step()
        new = line.scheduler.queue.first()
        assert (new.id, line.memory.swapped, line.memory.host_used) == ("new", 1, -(-new.computed // PAGE))
        computed = new.computed
        while new.phase != "running":
            line.step()
        assert "old" not in line.running()
        assert new.computed == computed + 1  # nothing was computed again
        assert line.memory.swapped == line.memory.host_used == 0

    def test_without_host_memory_it_is_computed_again(self):
        line = Line(pages=12, prefix_cache=False)
        for name in ("old", "new"):
            line.add(name, 20, most=60)
            line.step()
        while not line.scheduler.preempted:
            line.step()
        new = line.scheduler.queue.first()
        assert (new.id, new.computed, new.prompt_end) == ("new", 0, len(new.tokens))

    def test_higher_priority_takes_places_and_pages(self):
        line = Line(pages=12, max_running=2)
        line.add("a", 30)
        line.add("b", 30)
        line.step(2)
        line.add("high", 40, priority=5)
        line.add("equal", 4)
        line.step()
        assert "high" in line.running()
        assert line.scheduler.running["high"].computed > 0
        assert "equal" not in line.running()

    def test_everything_ends(self):
        line = Line(pages=14, max_running=4, host_pages=6, drafts=2)
        sequences = [line.add(str(number), 10 + number % 30, most=60, priority=number % 3) for number in range(30)]
        for _ in range(5000):
            line.step()
            if all(sequence.phase == "done" for sequence in sequences):
                break
        assert [sequence.id for sequence in sequences if sequence.phase != "done"] == []
        assert line.scheduler.preempted > 0
        assert (
            line.memory.used == line.memory.host_used == len(line.scheduler.queue) == line.scheduler.queue.tokens == 0
        )


class TestFollowing:
    def test_waits_for_what_is_being_computed(self):
        line = Line(pages=100)
        line.add("a", 100, same="x")
        line.step()
        line.add("b", 100, same="x")
        line.add("other", 10)
        plan = line.step()
        assert [name for name, _, _ in pieces(plan)] == ["other", "a"]
        line.step(3)
        assert line.scheduler.running["b"].usage.cached_tokens == 96

    def test_goes_on_alone_when_the_other_leaves(self):
        line = Line(pages=100)
        line.scheduler.remove(line.add("gone", 4))
        leader = line.add("a", 100, same="x")
        line.step()
        line.add("b", 100, same="x")
        line.step()
        assert set(line.scheduler.following) == {"b"}
        line.scheduler.remove(leader)
        line.step()
        assert line.running() == {"b"}

    def test_may_itself_leave(self):
        line = Line(pages=100)
        line.add("a", 100, same="x")
        line.step()
        follower = line.add("b", 100, same="x")
        line.step()
        line.scheduler.remove(follower)
        assert not line.scheduler.following


class TestFairness:
    def test_tenants_share_whatever_they_ask_for(self):
        line = Line(pages=200, max_running=1)
        for number in range(40):
            line.add(f"many {number}", 16, most=4, tenant="many")
        line.step()
        for number in range(10):
            line.add(f"few {number}", 16, most=4, tenant="few")
        served = []
        while len(served) < 16:
            served += [p.sequence.tenant for p in line.step().pieces if p.kind == "prompt"]
        assert 7 <= served.count("few") <= 9

    def test_tokens_count_not_requests(self):
        line = Line(pages=200, max_running=1, chunk=512)
        for number in range(40):
            line.add(f"a {number}", 100, most=1, tenant="long")
            line.add(f"b {number}", 20, most=1, tenant="short")
        served = [line.step().pieces[0].sequence.tenant for _ in range(24)]
        assert 3.5 < served.count("short") / served.count("long") < 6

    def test_idle_time_saves_nothing_up(self):
        line = Line(pages=200, max_running=1)
        for number in range(60):
            line.add(f"busy {number}", 16, most=1, tenant="busy")
        line.step(20)
        for number in range(40):
            line.add(f"late {number}", 16, most=1, tenant="late")
        served = [line.step().pieces[0].sequence.tenant for _ in range(20)]
        assert 9 <= served.count("late") <= 11

    def test_priority_comes_before_fairness(self):
        line = Line(max_running=1)
        for number in range(6):
            line.add(f"low {number}", 8, most=1, tenant="low")
            line.add(f"high {number}", 8, most=1, tenant="high", priority=1)
        served = [line.step().pieces[0].sequence.tenant for _ in range(12)]
        assert served == ["high"] * 6 + ["low"] * 6


@pytest.mark.parametrize("tenants", [1, 1000])
def test_a_step_costs_the_same_however_many_wait(tenants):
    def scheduling(waiting):
        line = Line(pages=60, max_running=4)
        for number in range(waiting):
            line.add(str(number), 30, most=500, tenant=str(number % tenants))
        line.step(10)
        times = []
        for _ in range(60):
            began = time.perf_counter()
            line.step()
            times.append(time.perf_counter() - began)
            if len(times) % 10 == 0:  # somebody leaves, somebody is admitted
                line.scheduler.remove(next(iter(line.scheduler.running.values())))
        assert len(line.scheduler.queue) > 0
        return statistics.median(times), statistics.mean(times)

    few, many = scheduling(20), scheduling(5000)
    assert many[0] < 4 * few[0]
    assert many[1] < 10 * few[1]


def test_work_counts_keys():
    assert Work().with_prompt(3, 10) == Work(3, 0, 11 + 12 + 13)
    assert Work().with_prompt(3, 0).with_rows(2, 5) == Work(3, 2, 6 + 6 + 7)
