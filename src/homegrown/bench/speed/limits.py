"""The machine's limits, measured turn by turn with what is held against them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from homegrown import device as devices
from homegrown.bench.record import Spread
from homegrown.bench.speed.record import Floor

READ = "read"
SECONDS = 0.2
"""Time given to each measurement of a limit."""
BUFFER = 256 << 20
"""Bytes that are read: far more than any cache holds."""


def multiply(dtype: torch.dtype) -> str:
    """Name of a matrix-multiply peak."""
    return f"multiply {name_of(dtype)}"


def name_of(dtype: torch.dtype) -> str:
    """`float32` and so on."""
    return str(dtype).removeprefix("torch.")


class Limits:
    """Measures limits again and again.

    Args:
        device: whose.
        dtypes: of the products.
        buffer: bytes that are read each time.
        seconds: given to each measurement.

    Attributes:
        turns: by label, to be interleaved with the contestants.
        values: what was measured, in order; FLOP/s and B/s.
    """

    def __init__(
        self,
        device: torch.device,
        dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16),
        buffer: int = BUFFER,
        seconds: float = SECONDS,
    ) -> None:
        self.values: dict[str, list[float]] = {}
        self._device, self._seconds = device, seconds
        self._data = torch.ones(buffer // 4, device=device)
        self.turns: dict[str, Callable[[], None]] = {multiply(kind): partial(self._multiply, kind) for kind in dtypes}
        self.turns[READ] = self._read

    def spreads(self, warmup: int) -> dict[str, Spread]:
        """What was measured behind the first `warmup` rounds."""
        return {name: Spread.of(values[warmup:]) for name, values in self.values.items()}

    def _multiply(self, dtype: torch.dtype) -> None:
        speed = devices.measure_peak(self._device, dtype, self._seconds)
        self.values.setdefault(multiply(dtype), []).append(speed)

    def _read(self) -> None:
        self.values.setdefault(READ, []).append(read_bandwidth(self._data, self._seconds))


def read_bandwidth(data: torch.Tensor, seconds: float) -> float:
    """B/s at which a float32 vector is read: the best of two reductions within `seconds`, as no one kernel is known to
    reach the limit everywhere."""
    ways = (lambda: torch.dot(data, data), lambda: data.amax())
    best, end, runs = 0.0, time.perf_counter() + seconds, 0
    while runs < 4 or time.perf_counter() < end:
        devices.synchronize(data.device)
        start = time.perf_counter()
        ways[runs % 2]()
        devices.synchronize(data.device)
        best = max(best, data.numel() * data.element_size() / (time.perf_counter() - start))
        runs += 1
    return best


def floor(flops: float, size: float, dtype: torch.dtype, limits: dict[str, Spread]) -> Floor:
    """The floor of work that needs so many FLOPs in `dtype` and reads so many bytes."""
    peak = multiply(dtype)
    compute, memory = flops / limits[peak].maximum, size / limits[READ].maximum
    bound = "compute" if compute >= memory else "memory"
    return Floor(flops=flops, bytes=size, peak=peak, seconds=max(compute, memory), bound=bound)  # type: ignore[arg-type]
