"""Pipeline schedules: complete, in order, free of deadlock, and as short as the formulas say."""

from __future__ import annotations

import pytest

from homegrown.parallel.schedule import (
    BACKWARD,
    FORWARD,
    Act,
    Exchange,
    ScheduleError,
    Step,
    feeds,
    forward_order,
    needs,
    nominal,
    programs,
    simulate,
    training_order,
)

SHAPES = [
    (1, 1, 1), (1, 1, 5), (2, 1, 1), (2, 1, 3), (4, 1, 2), (4, 1, 6), (4, 1, 7), (5, 1, 16),
    (2, 2, 2), (2, 2, 6), (2, 3, 4), (3, 2, 6), (4, 2, 8), (4, 3, 4), (8, 4, 16),
]  # fmt: skip
"""Stages, parts a stage, micro-batches."""


def everything(stages: int, parts: int, micros: int, kinds: tuple[str, ...]) -> set[Act]:
    return {Act(kind, part, micro) for kind in kinds for part in range(stages * parts) for micro in range(micros)}


def blocking(program: tuple[tuple[Step, ...], ...]) -> list[Act]:
    """Carry programs out with exchanges that block both ends until both have come: the acts in some possible order.

    Fails if nobody can go on, if the ends of an exchange do not agree on it, or if an act lacks what it needs.
    """
    last = max(step.act.part for steps in program for step in steps if step.act)
    # Each stage as a flat list of exchanges and acts, and how far it is.
    todo = [[item for step in steps for item in (*step.exchanges, step.act) if item is not None] for steps in program]
    at = [0] * len(program)
    arrived: list[set[Act]] = [set() for _ in program]
    done: list[Act] = []

    def current(stage: int) -> Exchange | Act | None:
        return todo[stage][at[stage]] if at[stage] < len(todo[stage]) else None

    moved = True
    while moved:
        moved = False
        for stage in range(len(program)):
            item = current(stage)
            if isinstance(item, Act):
                for need in needs(item, last):
                    here = need in done if need.part % len(program) == stage else need in arrived[stage]
                    assert here, f"stage {stage} begins {item} without {need}"
                done.append(item)
                at[stage] += 1
                moved = True
            elif item is not None:
                ends = {move.source for move in item} | {move.target for move in item}
                assert len(ends) == 2 and stage in ends
                if all(current(end) == item for end in ends):
                    for move in item:
                        assert move.made_by in done
                        arrived[move.target].add(move.made_by)
                    for end in ends:
                        at[end] += 1
                    moved = True
    assert at == [len(items) for items in todo], "the programs came to a standstill"
    return done


@pytest.mark.parametrize(("stages", "parts", "micros"), SHAPES)
def test_training_programs(stages, parts, micros):
    done = blocking(programs(stages, parts, micros))
    assert len(done) == len(set(done))
    assert set(done) == everything(stages, parts, micros, (FORWARD, BACKWARD))
    for part in range(stages * parts):
        for kind in (FORWARD, BACKWARD):
            order = [act.micro for act in done if (act.kind, act.part) == (kind, part)]
            assert order == list(range(micros)), "sums over micro-batches are formed in another order"


@pytest.mark.parametrize(("stages", "parts", "micros"), [*SHAPES, (4, 2, 3), (2, 2, 5), (3, 3, 7)])
def test_forward_programs(stages, parts, micros):
    done = blocking(programs(stages, parts, micros, training=False))
    assert set(done) == everything(stages, parts, micros, (FORWARD,))
    assert [act.micro for act in done if act.part == stages * parts - 1] == list(range(micros))


@pytest.mark.parametrize(("stages", "parts", "micros"), SHAPES)
@pytest.mark.parametrize("backward", [1.0, 2.0, 3.5])
def test_bubble_and_memory(stages, parts, micros, backward):
    """arXiv 2104.04473 section 2.2: the bubble is (P − 1) / V passes of a whole stage, in both schedules."""
    orders = [training_order(stage, stages, parts, micros) for stage in range(stages)]
    timeline = simulate(orders, parts, lambda act: 1.0 if act.kind == FORWARD else backward)
    if micros >= stages:
        assert timeline.bubble == pytest.approx((stages - 1) / (micros * parts + stages - 1))
    for stage in range(stages):
        if parts == 1:
            assert timeline.in_flight(stage) == min(micros, stages - stage)
        else:
            ahead = 2 * (stages - 1 - stage) + (parts - 1) * stages
            assert timeline.in_flight(stage) == min(micros * parts, ahead + 1)


def test_interleaving_shortens_the_bubble_at_the_cost_of_traffic():
    def bubble_and_moves(parts: int) -> tuple[float, int]:
        orders = [training_order(stage, 4, parts, 8) for stage in range(4)]
        exchanges = {exchange for steps in programs(4, parts, 8) for step in steps for exchange in step.exchanges}
        # Seconds of a whole stage's pass, cut into parts.
        return simulate(orders, parts, lambda act: nominal(act) / parts).bubble, sum(map(len, exchanges))

    (plain, moves), (interleaved, more) = bubble_and_moves(1), bubble_and_moves(2)
    assert plain == pytest.approx(3 / 11)
    assert interleaved == pytest.approx(3 / 19)
    assert (moves, more) == (2 * 3 * 8, 2 * 7 * 8)


def test_slow_transfers_lengthen_a_step():
    orders = [training_order(stage, 3, 1, 6) for stage in range(3)]
    assert simulate(orders, 1, nominal, transfer=0.25).duration > simulate(orders, 1, nominal).duration
    assert simulate([training_order(0, 1, 1, 6)], 1, nominal, transfer=9.0).duration == 18


def test_uneven_parts():
    """The slowest stage sets the pace: with the last twice as slow, all others wait for it."""
    orders = [training_order(stage, 2, 1, 32) for stage in range(2)]
    timeline = simulate(orders, 1, lambda act: nominal(act) * (1 + act.part))
    assert timeline.bubble == pytest.approx(0.25, abs=0.02)


def test_receives_are_started_ahead():
    """Where an interleaved schedule has slack, what an act needs travels while the act before it computes."""
    steps, started, ahead = programs(4, 2, 8)[3], {}, []
    for number, step in enumerate(steps):
        started |= {move.made_by: number for exchange in step.exchanges for move in exchange if move.target == 3}
        needed = needs(step.act, 7) if step.act else []
        ahead += [number - started[need] for need in needed if need.part % 4 != 3]
    assert sum(distance > 0 for distance in ahead) > len(ahead) / 2


def test_a_schedule_that_cannot_be_is_refused():
    with pytest.raises(ScheduleError, match=r"6 micro-batches: .* needs a multiple of its 4 stages"):
        training_order(0, 4, 2, 6)
    stuck = [(Act(BACKWARD, 0, 0), Act(FORWARD, 0, 0)), (Act(FORWARD, 1, 0), Act(BACKWARD, 1, 0))]
    with pytest.raises(ScheduleError, match="stage 0 at the backward pass of part 0 on micro-batch 0"):
        simulate(stuck, 1, nominal)


def test_what_follows_what():
    assert needs(Act(FORWARD, 0, 2), 3) == []
    assert needs(Act(BACKWARD, 3, 2), 3) == [Act(FORWARD, 3, 2)]
    assert needs(Act(BACKWARD, 1, 2), 3) == [Act(FORWARD, 1, 2), Act(BACKWARD, 2, 2)]
    assert [feeds(Act(FORWARD, part, 0), 3) for part in range(4)] == [1, 2, 3, None]
    assert [feeds(Act(BACKWARD, part, 0), 3) for part in range(4)] == [None, 0, 1, 2]
    assert [act.part for act in forward_order(1, 2, 2, 2)] == [1, 1, 3, 3]
