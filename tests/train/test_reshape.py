"""A run that is stopped and goes on at another layout: the same data, and the same numbers."""

from __future__ import annotations

import pytest
import torch

from homegrown.config import ParallelConfig, TrainConfig
from homegrown.hub import save
from homegrown.parallel.world import World
from homegrown.train.checkpoint import MEMORY
from homegrown.train.run import Workbench, open_run
from tests.parallel.spawn import spawn

from . import tiny

Figures = list[tuple[float, float]]
"""Loss and gradient norm of each step."""

JOURNEY = (
    (2, ParallelConfig(), 2),
    (4, ParallelConfig(), 3),
    (2, ParallelConfig(tp=2), 4),
    (4, ParallelConfig(pp=2, ep=2), 5),
    (4, ParallelConfig(cp=2, ep=4, embp=2), 6),
    (1, ParallelConfig(), 7),
)
"""Processes, layout, and the step at which that part of the run is stopped."""
BITWISE = 3
"""Steps until the layout is another one than data parallelism."""


def stretch(world: World, config: TrainConfig, until: int) -> Figures:
    run = open_run(config, world)
    figures = []
    while run.step < until:
        result = run.bench.stepper.step(run.step + 1, run.bench.batch(run.step))
        run.step += 1
        figures.append((result.terms["total"].item(), result.grad_norm.item()))
    run.save()
    reports = run.settle(wait=True)
    assert [report.error for report in reports] == [None]
    run.close()
    return figures


@pytest.mark.slow
def test_a_run_goes_on_at_other_layouts(dataset, tmp_path):
    """Bit for bit among data-parallel sizes; to rounding elsewhere, which grows from step to step."""
    config = tiny.train_config(dataset.path, tmp_path / "run", steps=8, model=tiny.model_config(n_routed_experts=8))
    config = tiny.replaced(config, data__global_batch=8, data__micro_batch=1)
    straight = Workbench(config)
    expected = [straight.stepper.step(step + 1, straight.batch(step)) for step in range(7)]
    found: Figures = []
    for size, parallel, until in JOURNEY:
        parts = spawn(size, stretch, tiny.replaced(config, parallel=parallel), until)
        assert all(part == parts[0] for part in parts)
        found += parts[0]
    wanted = [(result.terms["total"].item(), result.grad_norm.item()) for result in expected]
    assert found[:BITWISE] == wanted[:BITWISE]
    for step in range(BITWISE, 7):
        assert found[step] == pytest.approx(wanted[step], rel=2e-2), step


def start(world: World, config: TrainConfig) -> dict[str, torch.Tensor]:
    run = open_run(config, world)
    masters = {key: tensor.clone() for key, tensor in run.bench.stepper.wanted().items() if "master" in key}
    notes = run.notes
    run.close()
    assert any("began with the weights of" in note for note in notes)
    return masters


def test_a_run_begins_from_a_directory(dataset, tmp_path):
    """Masters are the directory's weights, in one process and on two ranks that each read their own."""
    config = tiny.train_config(dataset.path, tmp_path / "first")
    donor = Workbench(tiny.replaced(config, seed=9)).model
    donor.layers["0"].mlp.router.e_score_correction_bias.fill_(0.25)
    save(donor, dataset.tokenizer(), tmp_path / "weights")
    config = tiny.replaced(config, init=tmp_path / "weights")
    bench_of = open_run(tiny.replaced(config, run=tmp_path / "alone"))
    for name, weight in bench_of.model.state_dict().items():
        assert torch.equal(weight, donor.state_dict()[name]), name
    bench_of.close()
    parts = spawn(2, start, tiny.replaced(config, parallel=ParallelConfig(tp=2)))
    whole = {key: tensor for part in parts for key, tensor in part.items()}
    for key, tensor in whole.items():
        name, _, rest = key.partition("@")
        first, last = (int(number) for number in rest.partition("/")[0].split(":"))
        assert torch.equal(tensor, donor.state_dict()[name][first:last]), key


def remember(world: World, config: TrainConfig, until: int) -> int:
    """Go on to a step, and keep it in memory alone; the step that it went on from."""
    run = open_run(config, world)
    began = run.step
    while run.step < until:
        run.bench.stepper.step(run.step + 1, run.bench.batch(run.step))
        run.step += 1
    run.save(MEMORY)
    assert [(report.place, report.error) for report in run.settle(wait=True)] == [("memory", None)]
    run.close()
    return began


def test_a_run_goes_on_from_copies_in_memory(dataset, tmp_path):
    """Nothing was written to the disk; another layout reads what is in the host's memory, another run does not."""
    config = tiny.replaced(
        tiny.train_config(dataset.path, tmp_path / "run"), data__micro_batch=1, checkpoint__memory_every_steps=1,
        checkpoint__memory=tmp_path / "memory",
    )  # fmt: skip
    assert spawn(2, remember, config, 2) == [0, 0]
    assert not (tmp_path / "run/checkpoints").exists() or not any((tmp_path / "run/checkpoints").iterdir())
    assert spawn(2, remember, tiny.replaced(config, parallel=ParallelConfig(tp=2)), 3) == [2, 2]
    other = open_run(tiny.replaced(config, run=tmp_path / "other"))
    assert other.step == 0
    other.close()
