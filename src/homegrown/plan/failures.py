"""What interrupts a run, how often, and for how long: nodes, software, whole pods; spares and repairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from homegrown.config.errors import ConfigError
from homegrown.plan.facts import Cluster, Tier
from homegrown.plan.quantity import EXPECTED, World
from homegrown.plan.upkeep import Upkeep, default_upkeep

DAY = 86_400.0
"""Seconds."""
ENOUGH = 1e-3
"""Share of the time that a run may stand still for want of spares, where spares are counted out for it."""
_ROUNDS = 8
"""In which two waits that depend on each other settle."""


def mttf(nodes: float, per_node_day: float) -> float:
    """Seconds from one failure to the next, on average, of so many nodes that fail independently.

    MTTF = 1 / (N r_f): arXiv 2410.21680, section on the failure model.
    """
    return DAY / (nodes * per_node_day)


@dataclass(frozen=True, kw_only=True)
class Failures:
    """What interrupts a run.

    Interruptions come as a Poisson process as long as the run is not waiting for a repair, restarts included: one that
    strikes during a restart begins it anew, and from lasting storage if a pod was lost.

    Attributes:
        nodes, software, pods: interruptions a second of the whole run: lost nodes, what no node causes, lost pods.
        restart: seconds from an interruption to the next step: found, restarted, loaded.
        pod_restart: the same after the loss of a pod, which is loaded from lasting storage.
        repair, pod_repair: seconds until a lost node (pod) can be used again.
        spares, spare_pods: nodes (pods) that stand ready; None, always one more.
    """

    nodes: float
    restart: float
    software: float = 0.0
    pods: float = 0.0
    pod_restart: float = 0.0
    repair: float = 0.0
    pod_repair: float = 0.0
    spares: int | None = None
    spare_pods: int | None = None

    def __post_init__(self) -> None:
        for name, figure in (
            ("nodes", self.nodes), ("software", self.software), ("pods", self.pods), ("restart", self.restart),
            ("pod_restart", self.pod_restart), ("repair", self.repair), ("pod_repair", self.pod_repair),
            ("spares", self.spares or 0), ("spare_pods", self.spare_pods or 0),
        ):  # fmt: skip
            if not (0 <= figure < math.inf):
                raise ConfigError(f"failures.{name} = {figure:g}: must be finite and not negative")

    @property
    def ordinary(self) -> float:
        """Interruptions a second that leave every pod standing."""
        return self.nodes + self.software

    @property
    def rate(self) -> float:
        """All interruptions a second."""
        return self.ordinary + self.pods

    @property
    def mttf(self) -> float:
        """Seconds from one interruption to the next; infinite where nothing fails."""
        return 1 / self.rate if self.rate else math.inf

    @property
    def available(self) -> float:
        """Share of the time in which the run does not wait for a node or pod to be repaired.

        A run that needs a repair to go on is a loss system: lost parts are its busy servers, and while one more than
        the spares is lost, nothing else can fail. So the share is Erlang's (1917), and does not depend on how repair
        times are distributed. Where both nodes and pods run short, the wait for one gives time to repair the other: no
        time where waits are long against repairs, in proportion where they are short; the middle of the two is taken.
        """
        node, pod = self.nodes * self.repair, self.pods * self.pod_repair
        long = _wait(node, self.spares) + _wait(pod, self.spare_pods)
        for_node = for_pod = 0.0
        for _ in range(_ROUNDS):
            for_node = (1 + for_pod) * _wait(node / (1 + for_pod), self.spares)
            for_pod = (1 + for_node) * _wait(pod / (1 + for_node), self.spare_pods)
        return 1 / (1 + (long + for_node + for_pod) / 2)

    @property
    def spares_needed(self) -> int:
        """Fewest spare nodes with which the run waits for less than a thousandth of the time."""
        load = self.nodes * self.repair
        spares, blocked = 0, 1.0
        while True:
            blocked = load * blocked / (spares + 1 + load * blocked)
            if blocked <= ENOUGH:
                return spares
            spares += 1

    def loss_each(self, daily: float) -> float:
        """Seconds that each interruption costs, if all of a day together cost `daily` seconds."""
        return daily / (self.rate * DAY)


def failures_of(
    cluster: Cluster,
    devices: int,
    world: World = EXPECTED,
    *,
    upkeep: Upkeep | None = None,
    state: float = 0.0,
    software: float = 0.0,
    spares: int | None = None,
    spare_pods: int | None = None,
) -> Failures:
    """What interrupts a run on a cluster.

    Args:
        cluster: where it runs.
        devices: that it uses, spares left out.
        world: gives uncertain figures their values.
        upkeep: repair times and the like; the package's own if not given.
        state: bytes a device of what a checkpoint holds; loaded from storage after the loss of a pod.
        software: interruptions a day of the whole run beside those that `cluster.failures` counts. The published rates
            of large runs count software's share already; those of clusters full of small jobs may not.
        spares, spare_pods: see `Failures`.

    Raises:
        ConfigError: no devices, or more than the cluster can have.
    """
    if devices < 1 or (cluster.largest and devices > cluster.largest):
        most = f" and at most {cluster.largest:,}, the largest {cluster.title} there is" if cluster.largest else ""
        raise ConfigError(f"devices = {devices:,}: must be at least 1{most}")
    here = f"cluster.{cluster.name}"
    figures = (upkeep or default_upkeep()).at(world)
    restart = world.of(f"{here}.restart", cluster.restart)
    pod, lost = pod_of(cluster), 0.0
    if pod is not None and cluster.pod_failures is not None:
        lost = world.of(f"{here}.pod_failures", cluster.pod_failures) * math.ceil(devices / pod.size)
    return Failures(
        nodes=world.of(f"{here}.failures", cluster.failures) * math.ceil(devices / cluster.node) / DAY,
        software=software / DAY,
        pods=lost / DAY,
        restart=restart,
        pod_restart=restart + state / world.of(f"{here}.storage", cluster.storage),
        repair=figures.repair,
        pod_repair=figures.pod_repair,
        spares=spares,
        spare_pods=spare_pods,
    )


def pod_of(cluster: Cluster) -> Tier | None:
    """The pods that a cluster is made of: its largest tier but the last, if that is more than a node."""
    pods = [tier for tier in cluster.tiers[:-1] if tier.size > cluster.node]
    return pods[-1] if pods else None


def _wait(load: float, spares: int | None) -> float:
    """Time spent waiting over time not waiting, with so many spares and `load` parts under repair on average.

    B / (1 - B), with Erlang's loss formula B for spares + 1 servers, by its recursion B(n) = A B(n-1) / (n + A B(n-1)).
    """
    if spares is None or not load:
        return 0.0
    blocked = 1.0
    for servers in range(1, spares + 2):
        blocked = load * blocked / (servers + load * blocked)
    return blocked / (1 - blocked)
