"""How often things fail: identities with published figures, and queues against theory."""

import math

import pytest

from homegrown.config import ConfigError
from homegrown.plan.failures import DAY, Failures, failures_of, mttf, pod_of
from tests.plan.clusters import CLUSTER, cluster, exactly

HOUR = 3600.0


class TestPublishedMeanTimes:
    """Nodes and failures per 1000 node-days on one side, hours between failures on the other."""

    @pytest.mark.parametrize(
        ("devices", "rate", "hours"),
        [
            (16_384, 3.79, 3.09),  # arXiv 2407.21783, section 3.3.4
            (16_384, 6.50, 1.80),  # arXiv 2410.21680, projections for its larger cluster
            (131_072, 6.50, 0.23),
            (50_000, 3.79, 1.01),
        ],
    )
    def test_identity(self, devices, rate, hours):
        assert mttf(devices / 8, rate / 1000) / HOUR == pytest.approx(hours, abs=0.0051)  # as printed

    def test_llama_3_rate_from_its_count(self):
        nodes, days, interruptions = 2048, 54, 419
        assert 1000 * interruptions / (nodes * days) == pytest.approx(3.79, abs=0.005)

    def test_small_jobs_of_a_research_cluster_fail_for_other_reasons_too(self):
        measured, by_nodes = 7.9 * HOUR, mttf(1024 / 8, 6.50e-3)
        assert by_nodes / HOUR == pytest.approx(28.8, rel=0.01)
        software = DAY / measured - DAY / by_nodes
        run = failures_of(cluster(failures=exactly(6.50e-3)), 1024, software=software)
        assert run.mttf == pytest.approx(measured)

    def test_longcat_8_hours_to_10_minutes(self):
        before = failures_of(cluster(failures=exactly(3.79e-3)), 50_000)
        after = failures_of(cluster(failures=exactly(3.79e-3 * 0.3)), 50_000)
        assert before.loss_each(8 * HOUR) / 60 == pytest.approx(20, rel=0.02)
        assert before.loss_each(10 * 60) == pytest.approx(25, rel=0.02)
        assert after.loss_each(10 * 60) / 60 == pytest.approx(1.4, rel=0.02)


class TestOfCluster:
    def test_counts_nodes_and_pods_that_are_begun(self):
        run = failures_of(cluster(pod_failures=exactly(2e-3)), 65, state=1e9)
        assert run.nodes == pytest.approx(9 * 5e-3 / DAY)
        assert run.pods == pytest.approx(2 * 2e-3 / DAY)
        assert (run.restart, run.pod_restart) == (300.0, pytest.approx(310.0))

    def test_a_cluster_without_known_pod_losses_has_none(self):
        assert failures_of(CLUSTER, 6400).pods == 0

    def test_nodes_alone_are_no_pods(self):
        flat = cluster(tiers=(CLUSTER.tiers[0], CLUSTER.tiers[2]), pod_failures=exactly(1.0))
        assert pod_of(flat) is None
        assert pod_of(CLUSTER) == CLUSTER.tiers[1]
        assert failures_of(flat, 64).pods == 0

    @pytest.mark.parametrize("devices", [0, -8, 4097])
    def test_refuses(self, devices):
        with pytest.raises(ConfigError, match=r"devices = .*at least 1 and at most 4,096, the largest Round pods"):
            failures_of(cluster(largest=4096), devices)


class TestSpares:
    def run(self, spares):
        return Failures(nodes=1 / HOUR, restart=60, repair=20 * HOUR, spares=spares)

    def test_as_many_as_are_needed(self):
        assert self.run(None).available == 1

    def test_none_waits_for_every_repair(self):
        assert self.run(0).available == pytest.approx(1 / 21)

    @pytest.mark.parametrize("spares", [1, 5, 19, 30])
    def test_is_erlangs_loss_formula(self, spares):
        terms = [20.0**n / math.factorial(n) for n in range(spares + 2)]
        assert self.run(spares).available == pytest.approx(1 - terms[-1] / sum(terms))

    def test_needed_are_the_fewest(self):
        enough = self.run(None).spares_needed
        assert 1 - self.run(enough).available < 1e-3 < 1 - self.run(enough - 1).available
        assert Failures(nodes=0, restart=60).spares_needed == 0

    def test_pods_have_their_own(self):
        run = Failures(nodes=0, pods=1 / (100 * HOUR), restart=60, pod_repair=5 * HOUR, spare_pods=0)
        assert run.available == pytest.approx(100 / 105)

    @pytest.mark.parametrize("field", ["nodes", "restart", "repair", "software", "pods"])
    def test_refuses(self, field):
        with pytest.raises(ConfigError, match=rf"failures\.{field} = -1: must be finite and not negative"):
            Failures(**{"nodes": 1.0, "restart": 1.0, field: -1.0})
