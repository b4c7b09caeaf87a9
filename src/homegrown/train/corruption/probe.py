"""Permanent faults: all ranks compute the same, and those that compute otherwise than their equals are named."""

from __future__ import annotations

import hashlib
from collections import Counter

import torch
from torch import Tensor

from homegrown import device as devices
from homegrown.ops.samples import Sample, samples
from homegrown.optim.newton_schulz import orthogonalize
from homegrown.parallel.collectives import gather
from homegrown.parallel.groups import Group
from homegrown.train.corruption.fault import Suspicion, accuse
from homegrown.train.corruption.fingerprint import fingerprint

CHECK = "the same sample on all ranks"
LENGTH = 64
"""Tokens a row of the samples, see `ops.samples`."""


class Probe:
    """A sample of every op that a model uses, and of Muon's orthogonalisation, forward and backward.

    Inputs are the same on all ranks, so results must be, bit for bit, among like devices: those of the same kind with
    the same PyTorch and number of threads. Who disagrees with the majority of its like is faulty. Where there is no
    majority, as between two, it is who no longer gives what it gave at first; and if there is no such rank, the bits
    cannot tell, and all of them are named.

    Args:
        device, dtype: where and in what the run computes.
        world: all ranks.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, world: Group) -> None:
        self._device, self._world = device, world
        self._samples = [*samples(LENGTH), _newton_schulz(dtype)]
        self._inputs = [[tensor.to(device, dtype) for tensor in sample.tensors] for sample in self._samples]
        self._kind = _kind(device)
        self._first: Tensor | None = None

    def check(self, step: int) -> None:
        """Compute and compare. Collective.

        Raises:
            CorruptionError: on all ranks, if some compute otherwise than their equals.
        """
        prints = self._compute()
        if self._first is None:
            self._first = prints
        suspects = self._judge(self._told(prints, self._first))
        if suspects:
            # Whoever gives other bits at once than a moment ago is it, whatever the others gave.
            restless = self._told(prints, self._compute())[:, 1 + len(self._samples) :].any(1).tolist()
            suspects = {
                rank: Suspicion("the samples of all kernels", "gave other bits when computed again")
                for rank, changed in enumerate(restless)
                if changed
            } or suspects
        accuse(step, CHECK, suspects, self._world)

    def _compute(self) -> Tensor:
        """A fingerprint of what each sample gives, int64 [samples], on the host."""
        pairs = zip(self._samples, self._inputs, strict=True)
        results = ([fingerprint(result) for result in sample.run(inputs)] for sample, inputs in pairs)
        return torch.stack([fingerprint(torch.stack(prints)) for prints in results]).cpu()

    def _told(self, prints: Tensor, before: Tensor) -> Tensor:
        """What all ranks say: kind of device, fingerprints, and which of these are not what they were before."""
        return gather(torch.cat((torch.tensor([self._kind]), prints, (prints != before).long())), self._world)

    def _judge(self, rows: Tensor) -> dict[int, Suspicion]:
        """Suspects, from what all ranks told."""
        suspects: dict[int, Suspicion] = {}
        kinds, count = rows[:, 0].tolist(), len(self._samples)
        for kind in dict.fromkeys(kinds):
            ranks = [rank for rank, other in enumerate(kinds) if other == kind]
            for number, sample in enumerate(self._samples):
                values = {rank: int(rows[rank, 1 + number]) for rank in ranks}
                changed = {rank for rank in ranks if rows[rank, 1 + count + number]}
                for rank, what in _outvoted(values, changed).items():
                    suspects.setdefault(rank, Suspicion(f"sample of {sample.kernel}", what))
        return suspects


def _outvoted(values: dict[int, int], changed: set[int]) -> dict[int, str]:
    """Ranks that computed otherwise than most, and how that shows.

    Args:
        values: what each rank of a kind computed.
        changed: those that computed something else at first.
    """
    value, votes = Counter(values.values()).most_common(1)[0]
    if votes == len(values):
        # A single device has only itself to be compared with; several do not all change alike by accident.
        return dict.fromkeys(changed, "has other bits than at first") if len(values) == 1 else {}
    if 2 * votes > len(values):
        what = f"has other bits than on {votes} of {len(values)} equal devices"
        return {rank: what for rank, own in values.items() if own != value}
    if changed and len(changed) < len(values):
        return dict.fromkeys(changed, f"has other bits than at first, and than on equal devices ({len(values)} in all)")
    return dict.fromkeys(values, f"has no bits that most of {len(values)} equal devices agree on")


def _newton_schulz(dtype: torch.dtype) -> Sample:
    matrix = torch.randn(LENGTH, 2 * LENGTH, generator=torch.Generator().manual_seed(21))
    return Sample("newton_schulz", [matrix], lambda x: orthogonalize(x.detach().to(torch.float32), 5, dtype))


def _kind(device: torch.device) -> int:
    """A number for what decides which bits a device computes."""
    info = devices.describe(device)
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    text = f"{info.type}\0{info.name}\0{info.features.architecture}\0{torch.__version__}\0{threads}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
