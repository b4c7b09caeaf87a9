"""Training on several processes against training on one: every dimension, pairs of them, and all together."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from homegrown.config import ParallelConfig, TrainConfig
from homegrown.parallel.world import World
from homegrown.train.run import Workbench
from tests.parallel.spawn import spawn

from . import tiny

STEPS = 3
TOLERANCE = 1e-12
"""Of float64 gradients."""
ALONE = World(0, 1, 0, torch.device("cpu"))
P = ParallelConfig

DATA_ONLY = {2: P(), 4: P(), 8: P()}
"""Same bits as one process."""
OTHERS = {
    2: {
        "tensor": P(tp=2),
        "context": P(cp=2),
        "pipeline": P(pp=2),
        "interleaved": P(pp=2, parts=2),
        "experts": P(ep=2),
        "tables whole": P(embp=1),
    },
    4: {
        "tensor, context": P(tp=2, cp=2),
        "tensor, data": P(tp=2),
        "tensor, experts": P(tp=2, ep=4),
        "tensor, pipeline": P(tp=2, pp=2),
        "context, data": P(cp=2),
        "context of four": P(cp=4),
        "context, experts": P(cp=2, ep=2),
        "context, pipeline": P(cp=2, pp=2),
        "experts, data": P(ep=2),
        "experts of four": P(ep=4, embp=2),
        "experts in pods": P(ep=4, pod=2),
        "pipeline, data": P(pp=2),
        "pipeline of four": P(pp=4),
        "pipeline, experts": P(pp=2, ep=2),
        "interleaved, data": P(pp=2, parts=2),
    },
    8: {
        "tensor, context, data, experts": P(tp=2, cp=2, ep=4, embp=4),
        "tensor, context, pipeline": P(tp=2, cp=2, pp=2, ep=2),
        "tensor, pipeline, data": P(tp=2, pp=2, ep=4, embp=2),
        "context, interleaved, data": P(cp=2, pp=2, parts=2, ep=2),
    },
}


def config_of(data: Path, parallel: ParallelConfig, **changes: Any) -> TrainConfig:
    """Four layers of everything; eight rows of a global batch, one or two a micro-batch."""
    model = tiny.model_config(num_layers=4, n_routed_experts=8, zero_expert_num=4)
    config = tiny.train_config(data, model=model, parallel=parallel)
    return tiny.replaced(config, data__global_batch=8, data__micro_batch=1, **changes)


def trained(world: World, config: TrainConfig, steps: int = STEPS) -> dict[str, Any]:
    """Terms, norm, counts and health of each step, and the optimizer's state of the pieces owned here."""
    bench = Workbench(config, world)
    results = [bench.stepper.step(number + 1, bench.batch(number)) for number in range(steps)]
    return {
        "terms": [{name: value.item() for name, value in result.terms.items()} for result in results],
        "norm": [result.grad_norm.item() for result in results],
        "counts": [result.counts for result in results],
        "health": [result.health for result in results],
        "biases": {layer: router.e_score_correction_bias for layer, router in bench.assembly.routers().items()},
        "state": {key: tensor.clone() for key, tensor in bench.stepper.optimizer.state().items()},
    }


class _EnoughError(Exception):
    """The gradients are there."""


def gradients(world: World, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Gradients of the first step of the pieces owned here, in float64: rounding is to be told from mistakes."""
    bench = Workbench(tiny.replaced(config, precision="float64"), world)
    optimizer, found = bench.stepper.optimizer, {}

    def grad_norm() -> torch.Tensor:
        found.update({key: gradient.clone() for key, gradient in optimizer.gradients().items()})
        raise _EnoughError

    optimizer.grad_norm = grad_norm
    with contextlib.suppress(_EnoughError):
        bench.stepper.step(1, bench.batch(0))
    return found


def several(world: World, configs: dict[str, TrainConfig]) -> dict[str, dict[str, Any]]:
    """Steps and gradients under each layout."""
    return {name: {**trained(world, config), "gradients": gradients(world, config)} for name, config in configs.items()}


def merged(parts: list[dict[str, Any]], what: str) -> dict[str, torch.Tensor]:
    """The whole of something, every piece from the one rank that owns it."""
    whole: dict[str, torch.Tensor] = {}
    for part in parts:
        assert not whole.keys() & part[what].keys(), "a piece has one owner"
        whole |= part[what]
    return whole


@pytest.fixture(scope="module")
def alone(dataset) -> dict[str, Any]:
    return several(ALONE, {"alone": config_of(dataset.path, P())})["alone"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4, 8])
def test_data_parallelism_does_not_show_in_the_bits(dataset, alone, size):
    parts = [result["data"] for result in spawn(size, several, {"data": config_of(dataset.path, DATA_ONLY[size])})]
    for part in parts:
        assert part["terms"] == alone["terms"]
        assert part["norm"] == alone["norm"]
        assert all(torch.equal(part["biases"][layer], bias) for layer, bias in alone["biases"].items())
    for what in ("gradients", "state"):
        found = merged(parts, what)
        assert found.keys() == alone[what].keys()
        assert [key for key in found if not torch.equal(found[key], alone[what][key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", OTHERS)
def test_layouts(dataset, alone, size):
    """Losses, norms and counts step by step, and weights after them, to the rounding of float32."""
    configs = {name: config_of(dataset.path, parallel) for name, parallel in OTHERS[size].items()}
    results = spawn(size, several, configs, timeout_s=500)
    for name in configs:
        parts = [result[name] for result in results]
        for part in parts:
            for step, terms in enumerate(alone["terms"]):
                # Orthogonalised updates make much of a rounding where a gradient has few directions.
                rel = 1e-5 if step == 0 else 5e-3
                assert part["terms"][step] == pytest.approx(terms, rel=rel, abs=1e-6), (name, step)
                assert part["norm"][step] == pytest.approx(alone["norm"][step], rel=10 * rel), (name, step)
                assert torch.equal(part["counts"][0], alone["counts"][0]), name
            assert part["terms"] == parts[0]["terms"] and part["norm"] == parts[0]["norm"], name
        assert merged(parts, "state").keys() == alone["state"].keys(), name
        compare_gradients(name, merged(parts, "gradients"), alone["gradients"])


def compare_gradients(name: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Up to rounding on the scale of each parameter's largest number."""
    assert found.keys() == expected.keys(), name
    scale: dict[str, float] = {}
    for key, gradient in expected.items():
        parameter = key.partition("@")[0]
        scale[parameter] = max(scale.get(parameter, 0.0), gradient.abs().max().item())
    for key, gradient in found.items():
        error = (gradient - expected[key]).abs().max().item()
        assert error <= TOLERANCE * scale[key.partition("@")[0]], (name, key, error)
