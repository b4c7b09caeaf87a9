"""When a run is checked for silent corruption, and what is checked then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from homegrown.config import TrainConfig
from homegrown.parallel import flight
from homegrown.parallel.assembly import Assembly
from homegrown.parallel.groups import Groups
from homegrown.parallel.zero import ShardedOptimizer
from homegrown.train.corruption.probe import Probe
from homegrown.train.corruption.products import Products
from homegrown.train.corruption.replicas import Replicas
from homegrown.train.corruption.trace import Compute
from homegrown.train.corruption.twice import Twice


class Checks:
    """The checks of a run, in its steps and between them. All ranks make the same calls.

    Every `check.every` steps, and in steps after which the run is saved by their number, a micro-batch is computed
    twice and products are checked if so configured; after these steps, and before every save, copies of weights are
    compared and the sample is computed. A fault found in a step leaves weights and state as they were before it; any
    fault ends the run before the state reaches a checkpoint.

    Args:
        config: the run.
        assembly, optimizer, groups: this rank's.
        device, dtype: where and in what it computes.
    """

    def __init__(
        self, config: TrainConfig, assembly: Assembly, optimizer: ShardedOptimizer, groups: Groups,
        device: torch.device, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self._config, self._assembly = config, assembly
        world = groups["world"]
        self._twice = Twice(assembly, world)
        self._replicas = Replicas(assembly, optimizer, config, groups)
        self._probe = Probe(device, dtype, world)
        addresses = {weight.untyped_storage().data_ptr(): name for name, weight in assembly.named_parameters()}
        self._products = Products(addresses, world) if config.check.products else None
        self._passed = -1

    def due(self, step: int) -> bool:
        """Whether a step is checked."""
        save = self._config.checkpoint.every_steps
        return step % self._config.check.every == 0 or (save > 0 and step % save == 0) or step == self._config.steps

    def conduct(
        self, step: int, micros: int, forward: Compute, done: Callable[[int, int], None], again: Compute
    ) -> None:
        """Have the micro-batches of a step computed, see `step.Conduct`; look closer if the step is due.

        Raises:
            CorruptionError: on all ranks, before anything is made of the gradients.
        """
        if not self.due(step):
            self._assembly.pipeline.run(micros, forward, done)
            return
        with self._products.watching() if self._products else nullcontext():
            self._twice.run(step, micros, forward, done, again)
        # Before the update publishes weights anew: a copy that went bad has spoiled this step, and would be mended.
        self._replicas.check(step)
        if self._products:
            self._products.judge(step)

    def between_steps(self, step: int) -> None:
        """After a step: check if it is due.

        Raises:
            CorruptionError: on all ranks.
        """
        if self.due(step):
            self.before_save(step)

    def before_save(self, step: int) -> None:
        """Check what can be checked between steps, unless that was done since the last one.

        Raises:
            CorruptionError: on all ranks.
        """
        if self._passed != step:
            flight.phase("check")
            self._replicas.check(step)
            self._probe.check(step)
            self._passed = step
