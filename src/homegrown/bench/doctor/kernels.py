"""The kernels that training uses: right, and the same bits every time?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from homegrown import ops
from homegrown.bench.doctor.report import KernelResult
from homegrown.bench.interleave import Tick
from homegrown.ops.samples import Sample, samples

TOLERANCES = {
    # Sums of up to a thousand terms in another order.
    torch.float32: 3e-5,
    # Several roundings to 8 bits of mantissa (2⁻⁹ each) on the way from input to gradient.
    torch.bfloat16: 5e-2,
}
"""Largest relative error by dtype; a float32 product in a shortened format exceeds it."""


def count_kernels() -> int:
    """How often `check_kernels` calls its `tick`."""
    return len(samples(8))


def check_kernels(device: torch.device, length: int, runs: int, tick: Tick = lambda label: None) -> list[KernelResult]:
    """Run every kernel forward and backward, as training would: with the active implementations, deterministically.

    Args:
        device: where.
        length: size of the inputs, see `samples`.
        runs: how often each runs; all must give the same bits.
        tick: told each kernel's name before its turn.
    """
    results = []
    with _deterministic():
        for sample in samples(length):
            tick(f"kernel {sample.kernel}")
            results += [_check(sample, device, dtype, runs) for dtype in TOLERANCES]
    return results


def _check(sample: Sample, device: torch.device, dtype: torch.dtype, runs: int) -> KernelResult:
    op = ops.OPS.get(sample.kernel)
    result = partial(
        KernelResult,
        kernel=sample.kernel,
        implementation=op.active if op else "PyTorch",
        dtype=str(dtype).removeprefix("torch."),
        tolerance=TOLERANCES[dtype],
    )
    inputs = [tensor.to(dtype) for tensor in sample.tensors]
    try:
        outcomes = [_run(sample, [tensor.to(device) for tensor in inputs]) for _ in range(runs)]
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return result(failure=str(error).partition("\n")[0])
    with ops.using(**({sample.kernel: "reference"} if op else {})):
        wanted = _run(sample, [tensor.to(torch.float64) for tensor in inputs])
    digests = [_digest(outcome) for outcome in outcomes]
    return result(
        error=max(_relative(got, right) for got, right in zip(outcomes[0], wanted, strict=True)),
        repeats=len(set(digests)) == 1,
        digest=digests[0],
    )


def _run(sample: Sample, inputs: list[Tensor]) -> list[Tensor]:
    """What the sample gives, on the CPU."""
    return [tensor.cpu() for tensor in sample.run(inputs)]


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _relative(got: Tensor, wanted: Tensor) -> float:
    """max |got − wanted| / max |wanted|, infinite where got is not finite; 0 for what is chosen and not computed."""
    if not wanted.is_floating_point():
        return 0.0
    error = (got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)
    return float(torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf))


@contextmanager
def _deterministic() -> Iterator[None]:
    """PyTorch's deterministic mode, in which a kernel without a repeatable variant is an error."""
    mode = torch.get_deterministic_debug_mode()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
