"""Times of single kernels against published measurements of them, which no constant of the step was fitted to."""

from __future__ import annotations

from statistics import fmean

import pytest

from homegrown.config.errors import ConfigError
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.constants import Constants, figures
from homegrown.plan.kernel import Kernel
from homegrown.plan.quantity import EXPECTED, World
from homegrown.plan.roofline import Roofline

CONSTANTS = Constants.at()


def roofline(cluster: str) -> Roofline:
    return Roofline(Catalogue.load().cluster(cluster).machine(EXPECTED), CONSTANTS)


def product(products: int, rows: int, columns: int, inner: int, dtype: str = "fp8") -> Kernel:
    item = {"fp8": 1.0, "bf16": 2.0}[dtype]
    moved = products * (item * inner * (rows + columns) + 2.0 * rows * columns)
    flops = 2.0 * products * rows * inner * columns
    return Kernel("product", "", "matmul", flops, moved, dtype, rows, inner, columns, products)


DEEPGEMM = [
    (1, 4096, 2112, 7168, 1058), (1, 4096, 24576, 1536, 990), (1, 4096, 7168, 16384, 1358),
    (1, 4096, 4096, 7168, 1304), (1, 4096, 7168, 2048, 1025), (4, 8192, 4096, 7168, 1297), (4, 8192, 7168, 2048, 1099),
    (8, 4096, 4096, 7168, 1288), (8, 4096, 7168, 2048, 1093),
]  # fmt: skip
"""Products, rows, columns, inner, TFLOP/s on an H800 (github.com/deepseek-ai/DeepGEMM, README of 2025-02)."""


def test_sizes_of_products() -> None:
    """How sizes matter; what a chip does hour after hour is lower than in that benchmark by `sustained`."""
    timed = roofline("hgx-h800")
    errors = []
    for products, rows, columns, inner, measured in DEEPGEMM:
        kernel = product(products, rows, columns, inner)
        reached = kernel.flops / timed.seconds(kernel) / 1e12 / CONSTANTS.sustained
        errors.append(reached / measured - 1.0)
    assert max(map(abs, errors)) < 0.10
    assert fmean(map(abs, errors)) < 0.05


def test_large_product_of_ordinary_numbers() -> None:
    """An A100 does 257 TFLOP/s of 8192^3 in bf16 (thonking.ai 2024-04)."""
    kernel = product(1, 8192, 8192, 8192, "bf16")
    assert kernel.flops / roofline("hgx-a100").seconds(kernel) / 1e12 == pytest.approx(257, rel=0.08)


@pytest.mark.parametrize(("tokens", "measured"), [(512, 430), (2048, 566), (8192, 614), (16384, 621)])
def test_attention_by_length(tokens: int, measured: float) -> None:
    """Forward, not causal, heads of 128, on an H100 (github.com/pytorch/benchmark commit ff65cb6), in proportion to the
    longest: a benchmark's absolute rates are those of a cool chip."""
    timed = roofline("hgx-h100")

    def rate(keys: int) -> float:
        kernel = Kernel("attention", "", "attention", 1e15, 0.0, "bf16", keys, 128, keys)
        return kernel.flops / timed.seconds(kernel)

    assert rate(tokens) / rate(16384) == pytest.approx(measured / 621, rel=0.06)


def test_attention_by_width_and_pass() -> None:
    timed = roofline("hgx-a100")
    narrow, wide = (Kernel("attention", "", "attention", 1e15, 0.0, "bf16", 8192, d, 8192) for d in (64, 128))
    assert timed.seconds(narrow) > timed.seconds(wide)
    assert timed.seconds(wide, backward=True) > timed.seconds(wide)
    # FlashAttention-2 on an A100, heads of 128, long sequences: 200 to 227 and 170 to 196 TFLOP/s (arXiv 2307.08691).
    assert 180e12 < wide.flops / timed.seconds(wide) < 230e12
    assert 150e12 < wide.flops / timed.seconds(wide, backward=True) < 200e12


def test_bytes_bound_what_computes_little() -> None:
    timed = roofline("hgx-h100")
    moved = Kernel("copy", "", "memory", 0.0, 3.35e12)
    assert timed.seconds(moved) == pytest.approx(1 / CONSTANTS.memory, rel=1e-3)
    assert timed.seconds(moved._replace(kind="lookup")) == pytest.approx(1 / CONSTANTS.lookup, rel=1e-3)
    thin = product(1, 16, 8192, 8192)
    assert timed.seconds(thin) == pytest.approx(thin.bytes / 3.35e12 / CONSTANTS.memory + CONSTANTS.launch, rel=0.6)


def test_nothing_is_faster_than_the_chip() -> None:
    timed = roofline("hgx-h100")
    for sizes in ((1, 128, 128, 128), (1, 65536, 65536, 65536), (64, 37, 4096, 4096)):
        kernel = product(*sizes)
        assert kernel.flops / timed.seconds(kernel) < 1979e12


def test_unknown_precision() -> None:
    with pytest.raises(ConfigError, match="fp8: this chip multiplies in bf16, fp32, int8"):
        roofline("hgx-a100").seconds(product(1, 128, 128, 128))


def test_every_constant_has_a_mark_a_source_and_a_reason() -> None:
    for name, figure in figures().items():
        assert figure.source, name
        assert figure.low < figure.high, name
    worlds = [Constants.at(World(index, 8)) for index in range(8)]
    assert len({world.launch for world in worlds}) == 8
