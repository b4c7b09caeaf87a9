"""Expert parallelism: tokens travel to the processes that hold the experts they chose, and only there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from homegrown import ops
from homegrown.config import ModelConfig
from homegrown.model.router import Dispatcher, Experts, LocalDispatcher
from homegrown.ops.experts import sorted_experts
from homegrown.parallel.collectives import gather
from homegrown.parallel.groups import Group, Groups
from homegrown.parallel.hop import Given, Hop, Sent
from homegrown.parallel.planned import Balance


class ExpertDispatcher:
    """Exact, dropless dispatch (`model.router.Dispatcher`) over one group: an all-to-all there and one back.

    A token goes once to each member that holds experts it chose, however many; there its experts' outputs are weighted
    and summed, and one row comes back, which is added to those of other members in the members' order. What chose zero
    experts only, such as padding, never travels.

    Traffic starts in `send` and `compute` and is waited for in `compute` and `receive`; in the backward pass gradients
    start in `receive` and `compute` and are waited for in `compute` and `send`. The sublayers between run meanwhile.

    Args:
        group: expert e lives on member e // (n_routed / size).
        n_routed: number of real experts, a multiple of the group's size.
        overlap: `False` waits for each exchange at once; the bits are the same.
        planned: routing to suppose where tensors have no numbers (a dry run); `None` where they have.
    """

    def __init__(self, group: Group, n_routed: int, overlap: bool = True, planned: Balance | None = None) -> None:
        each = _each(n_routed, group.size)
        self.n_local, self._planned = each, planned
        self._hop = Hop(group, each, overlap, None if planned is None else planned.reach(each))

    @property
    def arrived(self) -> deque[int]:
        """Rows that came to this process's experts in each dispatch since the last `imbalance`."""
        return self._hop.arrived

    def send(self, x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor) -> Sent:
        """Send tokens off. The host waits for the sizes of the messages, nothing else."""
        return self._hop.send(x_NH, index_NK, gate_NK)

    def compute(self, sent: Sent, experts: Experts) -> Given:
        """Wait for tokens, run the experts that are here on them, send the results back."""
        return self._hop.give(sent, self._run(*self._hop.arrive(sent), experts))

    def receive(self, computed: Given) -> Tensor:
        """Wait for results; each token's sum, [N, H]."""
        return self._hop.receive(computed)

    def _run(self, rows_RH: Tensor, number_RW: Tensor, gate_RW: Tensor, experts: Experts) -> Tensor:
        """Σ over each row's experts here of gate · output, [R, H]."""
        weights = (experts.gate_up_proj, experts.down_proj)
        if weights[0].shape[0] != self.n_local:
            raise ValueError(
                f"group {self._hop.group.name!r}: {weights[0].shape[0]} experts are here, and must be {self.n_local}: "
                "this process's shard"
            )
        if self._planned is None:
            out_RH: Tensor = ops.experts(rows_RH, number_RW, gate_RW, *weights)
            return out_RH
        pairs = rows_RH.shape[0] * self._planned.chosen(self.n_local) / self._planned.reach(self.n_local)
        size = min(math.ceil(pairs / self.n_local), number_RW.numel() // self.n_local)
        return sorted_experts(rows_RH, number_RW, gate_RW, *weights, [size] * self.n_local)


class HierarchicalDispatcher:
    """The same in two hops, for processes in superpods: across, to the process at the same place in each pod that holds
    experts a token chose; inside, to the processes that hold them. A token and its sum cross once per pod, not once
    per process. The hop inside begins and ends in `compute`.

    Args:
        outer: this process and those at its place in the other pods, in order.
        inner: the processes of its pod, in order.
        n_routed, overlap, planned: as in `ExpertDispatcher`.
    """

    def __init__(
        self, outer: Group, inner: Group, n_routed: int, overlap: bool = True, planned: Balance | None = None
    ) -> None:
        pod = _each(n_routed, outer.size)
        self._across = Hop(outer, pod, overlap, None if planned is None else planned.reach(pod))
        self._inside = ExpertDispatcher(inner, pod, overlap, None if planned is None else planned.within(pod))

    @property
    def arrived(self) -> deque[int]:
        """As in `ExpertDispatcher`."""
        return self._inside.arrived

    def send(self, x_NH: Tensor, index_NK: Tensor, gate_NK: Tensor) -> Sent:
        """Send tokens off, across."""
        return self._across.send(x_NH, index_NK, gate_NK)

    def compute(self, sent: Sent, experts: Experts) -> Given:
        """Wait for tokens, have the experts of this pod run on them, send the pod's sums back."""
        inside = self._inside.send(*self._across.arrive(sent))
        return self._across.give(sent, self._inside.receive(self._inside.compute(inside, experts)))

    def receive(self, computed: Given) -> Tensor:
        """Wait for the pods' sums; each token's total, [N, H]."""
        return self._across.receive(computed)


def expert_dispatcher(groups: Groups, model: ModelConfig, overlap: bool = True, planned: bool = False) -> Dispatcher:
    """The dispatcher of one layer under a layout: local, over "ep", or over "ep_outer" and "ep_inner".

    Args:
        groups: this rank's.
        model: the model.
        overlap: let traffic overlap with the dense path.
        planned: for a dry run, on tensors without numbers.
    """
    balance = Balance.of(model) if planned else None
    if groups["ep_outer"].size > 1 and groups["ep_inner"].size > 1:
        return HierarchicalDispatcher(groups["ep_outer"], groups["ep_inner"], model.n_routed_experts, overlap, balance)
    if groups["ep"].size == 1 and not planned:
        return LocalDispatcher()
    return ExpertDispatcher(groups["ep"], model.n_routed_experts, overlap, balance)


def imbalance(
    dispatchers: Sequence[ExpertDispatcher | HierarchicalDispatcher], group: Group, device: torch.device
) -> Tensor:
    """How uneven arrivals were since the last call: the most that came to one process against the mean, by layer.

    Args:
        dispatchers: one per layer, having dispatched equally often.
        group: the "ep" group, all of whose members call this.
        device: where the group talks.

    Returns:
        float32 [layers], mean over the dispatches of max / mean; 1 is even. Not waited for.
    """
    here = torch.tensor([list(dispatcher.arrived) for dispatcher in dispatchers], dtype=torch.int64, device=device)
    for dispatcher in dispatchers:
        dispatcher.arrived.clear()
    rows = gather(here, group).to(torch.float32)
    return (rows.amax(0) / rows.mean(0).clamp(min=1 / group.size)).mean(-1)


def _each(n_routed: int, size: int) -> int:
    if n_routed % size:
        raise ValueError(f"{n_routed} experts do not spread evenly over {size} processes")
    return n_routed // size
