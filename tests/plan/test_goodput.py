"""What becomes of the time: the best interval, and the closed form against published figures and its own limits."""

import math

import numpy as np
import pytest

from homegrown.config import ConfigError
from homegrown.plan.failures import Failures
from homegrown.plan.goodput import Saving, best, daly, goodput, meta_ettr, saving_of, young
from tests.plan.clusters import CLUSTER, cluster, exactly

HOUR, MINUTE = 3600.0, 60.0


def losing(mttf, restart=0.0, pods=0.0, pod_restart=0.0):
    return Failures(nodes=1 / mttf, restart=restart, pods=pods, pod_restart=pod_restart)


class TestBestInterval:
    @pytest.mark.parametrize(("mttf", "minutes"), [(24 * HOUR, 117), (6 * HOUR, 57), (15 * MINUTE, 9.1)])
    def test_is_what_daly_prints(self, mttf, minutes):
        """Captions of his figures 3 to 5: writes of 5 minutes."""
        assert daly(5 * MINUTE, mttf) / MINUTE == pytest.approx(minutes, rel=0.006)
        assert best(5 * MINUTE, mttf) / MINUTE == pytest.approx(minutes, rel=0.008)

    @pytest.mark.parametrize("pause", [1e-6, 0.1, 30.0, 3600.0, 1e5])
    def test_is_the_best(self, pause):
        mttf = HOUR
        found = best(pause, mttf)
        kept = [
            goodput(losing(mttf), Saving(pause=pause), interval=found * factor).share for factor in (0.99, 1.0, 1.01)
        ]
        assert kept[1] >= max(kept)

    def test_short_writes_agree_with_young(self):
        assert best(1e-3, HOUR) == pytest.approx(young(1e-3, HOUR), rel=1e-3)
        assert daly(3 * HOUR, HOUR) == HOUR

    def test_whole_steps(self):
        plan = goodput(losing(HOUR), Saving(pause=1.0), step=30.0)
        assert plan.interval % 30 == pytest.approx(0)
        assert plan.interval >= 30

    def test_a_copy_in_the_background_is_finished_before_the_next(self):
        plan = goodput(losing(100 * HOUR), Saving(pause=0.001, drain=200.0))
        assert plan.interval + 0.001 >= 200
        plan = goodput(losing(100 * HOUR), Saving(pause=0.001, drain=200.0, memory=True, copy=1.0))
        assert plan.interval < 200
        assert plan.every * (plan.interval + 0.001) >= 200

    def test_in_memory_it_is_close_to_the_best(self):
        run, saving = losing(HOUR, 120, 1 / (50 * HOUR), 900), Saving(pause=2, drain=400, memory=True, copy=3)
        tried = [goodput(run, saving, interval=interval).share for interval in np.geomspace(20, 2000, 60)]
        assert goodput(run, saving).share == pytest.approx(max(tried), abs=1e-3)

    def test_nothing_to_choose_by(self):
        with pytest.raises(ConfigError, match="nothing interrupts this run"):
            goodput(Failures(nodes=0, restart=0), Saving(pause=1))
        with pytest.raises(ConfigError, match="snapshots take no time"):
            goodput(losing(HOUR), Saving(pause=0))
        with pytest.raises(ConfigError, match="interval = -1 s: must be positive"):
            goodput(losing(HOUR), Saving(pause=1), interval=-1)


class TestClosedForm:
    def test_nothing_fails(self):
        plan = goodput(Failures(nodes=0, restart=60), Saving(pause=1), interval=99)
        assert plan.share == pytest.approx(0.99)
        assert plan.redone == pytest.approx(0)

    def test_is_dalys_complete_cost_function(self):
        mttf, restart, write, interval = HOUR, 10 * MINUTE, 5 * MINUTE, 20 * MINUTE
        expected = interval / (mttf * math.exp(restart / mttf) * math.expm1((interval + write) / mttf))
        assert goodput(losing(mttf, restart), Saving(pause=write), interval=interval).share == pytest.approx(expected)

    def test_shares_add_up(self):
        run = Failures(
            nodes=1 / HOUR, software=1e-5, pods=1e-6, restart=200, pod_restart=2000, repair=1e5, pod_repair=1e4,
            spares=40, spare_pods=0,
        )  # fmt: skip
        plan = goodput(run, Saving(pause=1, drain=100, memory=True, copy=2))
        assert plan.share + plan.paused + plan.redone + plan.restarting + plan.waiting == pytest.approx(1)
        assert min(plan.share, plan.paused, plan.redone, plan.restarting, plan.waiting) > 0

    def test_a_drain_costs_as_much_as_a_longer_restart(self):
        late = goodput(losing(HOUR, 100), Saving(pause=1, drain=60), interval=120)
        slow = goodput(losing(HOUR, 160), Saving(pause=1), interval=120)
        assert late.share == pytest.approx(slow.share)

    def test_memory_is_worth_what_it_saves(self):
        run = losing(HOUR, 100)
        without = goodput(run, Saving(pause=1, drain=600))
        within = goodput(run, Saving(pause=1, drain=600, memory=True, copy=1))
        assert within.share - without.share > 0.15

    def test_rare_pods_are_continuous_with_none(self):
        saving = Saving(pause=1, drain=600, memory=True, copy=1)
        none = goodput(losing(HOUR, 100), saving, interval=80)
        rare = goodput(losing(HOUR, 100, 1e-15, 1000), saving, interval=80)
        assert rare.share == pytest.approx(none.share, rel=1e-9)

    def test_only_pods(self):
        """As if they were nodes, saved every period to storage, which then takes no time but the pauses."""
        run = Failures(nodes=0, pods=1 / HOUR, restart=0, pod_restart=300)
        plan = goodput(run, Saving(pause=1, drain=450, memory=True), interval=99)
        assert plan.every == 5
        same = goodput(losing(HOUR, 300), Saving(pause=5, drain=450), interval=495)
        assert plan.share == pytest.approx(same.share)

    def test_restarts_that_are_too_long_leave_nothing_but_no_less(self):
        assert 0 <= goodput(losing(MINUTE, 10 * HOUR), Saving(pause=1)).share < 1e-9
        assert 0 <= goodput(losing(MINUTE, 60, 1e-3, 1e7), Saving(pause=1, memory=True, drain=1e4)).share < 1e-9


class TestMeta:
    def test_llama_3(self):
        """More than 90 % effective time (arXiv 2407.21783, section 3.3.4), which takes restarts of minutes."""
        mttf, restart, interval, write = 3.09 * HOUR, 5 * MINUTE, 10 * MINUTE, 30.0
        assert meta_ettr(mttf, restart, interval, write) == pytest.approx(0.901, abs=5e-4)
        ours = goodput(losing(mttf, restart), Saving(pause=write), interval=interval).share
        assert ours == pytest.approx(0.901, abs=0.03)

    def test_agrees_where_restarts_are_short(self):
        ours = goodput(losing(100 * HOUR, 60), Saving(pause=1), interval=600).share
        assert meta_ettr(100 * HOUR, 60, 600, 1) == pytest.approx(ours, abs=1e-4)

    def test_is_wrong_where_they_are_not(self):
        mttf, restart, interval, write = 0.23 * HOUR, 20 * MINUTE, 5 * MINUTE, 10.0
        assert meta_ettr(mttf, restart, interval, write) < 0
        assert goodput(losing(mttf, restart), Saving(pause=write), interval=interval).share > 0.15


class TestSaving:
    def test_asynchronous_stands_still_for_the_copy_to_the_host_only(self):
        saving = saving_of(CLUSTER, 1e9)
        pause = saving_of(CLUSTER, 0).pause
        assert saving.pause - pause == pytest.approx(0.04)
        assert saving.drain == pytest.approx(10)
        assert saving.copy == pytest.approx(0.01)  # to a peer in the pod, not in the node

    def test_synchronous_waits_for_storage(self):
        assert saving_of(CLUSTER, 1e9, asynchronous=False).pause == pytest.approx(saving_of(CLUSTER, 1e9).pause + 10)

    def test_storage_alone(self):
        saving = saving_of(CLUSTER, 1e9, memory=False)
        assert (saving.memory, saving.copy, saving.drain) == (False, 0, pytest.approx(10))

    def test_a_node_as_large_as_its_tier_asks_the_network(self):
        flat = cluster(tiers=(CLUSTER.tiers[0], CLUSTER.tiers[2]), host_bandwidth=exactly(1e9))
        assert saving_of(flat, 1e9).copy == pytest.approx(0.02)

    def test_refuses(self):
        with pytest.raises(ConfigError, match="state = -1"):
            saving_of(CLUSTER, -1)
