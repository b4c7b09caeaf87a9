"""The pipeline on real processes: losses and gradients are one process's, bit for bit, and failures end."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from homegrown.model import Longcat
from homegrown.ops import saving
from homegrown.parallel import flight
from homegrown.parallel.collectives import TRAFFIC, barrier, gather_objects
from homegrown.parallel.groups import ALONE, Group, Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.parts import build_part, fill
from homegrown.parallel.pipeline import Pipeline, PipelineError
from homegrown.train.losses import LossPlan, Micro, PartOutput, WholeRows, count_targets, forward_part, plan_losses
from tests.train import tiny

from .spawn import spawn

ROWS, LENGTH = 2, 20
SHAPE = (ROWS, LENGTH, 32)

CASES = {
    "pp 2, micro-batches as they come": (Layout(pp=2, part_layers=(2, 2)), 3),
    "pp 2, uneven parts": (Layout(pp=2, part_layers=(3, 1)), 1),
    "pp 4": (Layout(pp=4, part_layers=(1, 1, 1, 1)), 5),
    "pp 4, few micro-batches": (Layout(pp=4, part_layers=(1, 1, 1, 1)), 2),
    "pp 2, 2 parts": (Layout(pp=2, parts=2, part_layers=(1, 1, 1, 1)), 4),
}
"""Layout and micro-batches. Those of two ranks run on two pairs of processes side by side."""


def micro_batches(count: int) -> list[Micro]:
    generator = torch.Generator().manual_seed(0)
    micros = []
    for _ in range(count):
        tokens = torch.randint(4, 304, (ROWS, LENGTH + 1), generator=generator)
        begins = torch.rand(ROWS, LENGTH + 1, generator=generator) < 0.15
        first = torch.where(begins, torch.arange(LENGTH + 1), 0).cummax(1).values
        micros.append(Micro(tokens, first))
    return micros


def planned(micros: list[Micro], **changes: Any) -> LossPlan:
    config = tiny.replaced(tiny.train_config(None), model=tiny.model_config(num_layers=4), loss__z=1e-3, **changes)  # type: ignore[arg-type]
    targets = torch.stack([count_targets(micro.first, config.model) for micro in micros]).sum(0)
    return plan_losses(config.loss, config.model, 2.0, targets, len(micros), 1, 10)


Gradients = dict[str, Tensor]


def gradients(models: list[Longcat]) -> Gradients:
    return {
        name: parameter.grad
        for model in models
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def one_process(micros: list[Micro], plan: LossPlan) -> tuple[list[Tensor], Gradients]:
    """Terms of each micro-batch and gradients of the whole model."""
    model = Longcat(tiny.model_config(num_layers=4))
    model.init_weights(5)
    terms = []
    for micro in micros:
        out = forward_part(model, None, micro, plan, WholeRows())
        out.loss.backward()
        terms.append(out.terms)
    return terms, gradients([model])


def pipelined(
    layout: Layout, rank: int, group: Group, micros: list[Micro], plan: LossPlan, recompute: str
) -> tuple[list[Tensor], Gradients, list[tuple[int, int]]]:
    """Terms of each part's micro-batches as they come, gradients, and what was reported done."""
    config = tiny.model_config(num_layers=4)
    numbers = [part.number for part in layout.parts_of(rank)]
    models = [build_part(config, part, layout, rank).to_empty(device="cpu") for part in layout.parts_of(rank)]
    for model in models:
        fill(model, layout, rank, 5)
        model.recompute = recompute == "full"
    terms: list[Tensor] = []
    done: list[tuple[int, int]] = []
    last = layout.all_parts[-1].number

    def forward(part: int, micro: int, hidden: Tensor | None) -> PartOutput:
        model = models[numbers.index(part)]
        with saving(recompute == "selective"):
            out = forward_part(model, hidden, micros[micro], plan, WholeRows(), last=part == last)
        terms.append(out.terms)
        return out

    through = plan.index_loss != "dense"
    pipeline = Pipeline(layout, group, torch.device("cpu"), torch.float32, SHAPE, through)
    pipeline.run(len(micros), forward, lambda part, micro: done.append((part, micro)))
    return terms, gradients(models), done


def compare(
    layout: Layout, group: Group, micros: list[Micro], plan: LossPlan, name: str, recompute: str = "none"
) -> None:
    rank = group.rank
    expected_terms, expected = one_process(micros, plan)
    terms, found, done = pipelined(layout, rank, group, micros, plan, recompute)
    own = [part.number for part in layout.parts_of(rank)]
    assert sorted(done) == [(part, micro) for part in own for micro in range(len(micros))]
    everybody = gather_objects((terms, found), group)
    total = torch.stack([item for terms, _ in everybody for item in terms]).sum(0)
    torch.testing.assert_close(total, torch.stack(expected_terms).sum(0), rtol=1e-5, atol=1e-6)

    names = [name for _, found in everybody for name in found]
    shared = {"embed_tokens.weight"} & expected.keys()
    assert set(names) == set(expected)
    assert {name for name in names if names.count(name) > 1} == shared
    different = [name for _, found in everybody for name in found if not torch.equal(found[name], expected[name])]
    assert set(different) <= shared, f"{name}: {sorted(set(different))}"
    if shared:
        both = [found["embed_tokens.weight"] for _, found in everybody if "embed_tokens.weight" in found]
        torch.testing.assert_close(both[0] + both[1], expected["embed_tokens.weight"], rtol=1e-5, atol=1e-7)


def parity(world: Any) -> None:
    pairs = Groups(Layout(pp=2, dp=2), world.rank, 60)["data"]  # ranks 0, 1 and ranks 2, 3
    everyone = Groups(Layout(pp=4), world.rank, 60)["pp"]
    for name, (layout, count) in CASES.items():
        micros = micro_batches(count)
        group = everyone if layout.pp == 4 else pairs
        compare(layout, group, micros, planned(micros), name, "selective" if layout.parts > 1 else "none")
    # The warm-up of the indexers: gradients stay within a part.
    micros = micro_batches(2)
    layout = CASES["pp 4"][0]
    compare(layout, everyone, micros, planned(micros, loss__indexer_stage="dense"), "dense", "full")


def stress(world: Any, folder: Path) -> None:
    """Many micro-batches of nothing but transfers, ranks of changing speed."""
    flight.open(flight.record_path(folder, world.rank), world.rank)
    groups = Groups(Layout(pp=4), world.rank, 60)
    group, stage = groups["pp"], world.rank
    for layout, micros in ((Layout(pp=4), 61), (Layout(pp=4, parts=3), 24)):
        weights = [torch.full((), 1.0 + number).requires_grad_() for number in range(layout.pp * layout.parts)]

        def forward(part: int, micro: int, hidden: Tensor | None, weights: Any = weights) -> Any:
            if (part * 7 + micro * 5) % 11 == 0:
                time.sleep(0.003)
            hidden = torch.full((2, 3), 1.0 + micro) if hidden is None else hidden
            out = hidden * weights[part]
            return SimpleNamespace(hidden=None if part == len(weights) - 1 else out, loss=out.sum() + 0.5)

        pipeline = Pipeline(layout, group, torch.device("cpu"), torch.float32, (2, 3))
        TRAFFIC.reset()
        for _ in range(2):
            pipeline.run(micros, forward, lambda part, micro: None)
        values = [weight.detach().double().requires_grad_() for weight in weights]
        total = torch.zeros((), dtype=torch.float64)
        hidden = torch.arange(1.0, micros + 1, dtype=torch.float64).sum() * 6 * 2
        for value in values:
            hidden = hidden * value
            total = total + hidden
        total.backward()
        own = range(stage, len(weights), 4)
        for part in own:
            torch.testing.assert_close(weights[part].grad.double(), values[part].grad, rtol=1e-5, atol=0)
        ends = sum((part > 0) + (part < len(weights) - 1) for part in own)
        assert TRAFFIC.totals["send", "pp"] == [2 * micros * ends, 2 * micros * ends * 24]

        # Both ends of every pair have noted its transfers alike.
        entered = flight.read(flight.record_path(folder, stage)).entered
        noted = gather_objects({name: count for name, count in entered.items() if name.endswith(tuple("0123"))}, group)
        for pair in {f"pp {source}>{(source + 1) % 4}" for source in range(3 if layout.parts == 1 else 4)}:
            source, target = int(pair[3]), int(pair[5])
            assert noted[source][pair] == noted[target][pair] > 0

        # Forward passes alone, of any number of micro-batches.
        outputs = pipeline.evaluate(7, forward)
        assert len(outputs) == (7 if stage == 3 else 0)
        assert not any(output.loss.requires_grad for output in outputs)
        product = torch.tensor([weight.item() for weight in weights]).prod().item()
        sums = [round((output.loss.item() - 0.5) / product) for output in outputs]
        assert sums == [6 * (micro + 1) for micro in range(7)][: len(outputs)]
    flight.close()


def failure(world: Any) -> None:
    """Stage 1 fails in its third forward pass: it raises its own error, the others one that names who owes what."""
    barrier(Groups(Layout(pp=4), world.rank, 60)["pp"])
    handle = dist.new_group(range(4), timeout=timedelta(seconds=3))
    group = Group("pp", (0, 1, 2, 3), world.rank, handle)
    pipeline = Pipeline(Layout(pp=4), group, torch.device("cpu"), torch.float32, (2, 3))

    def forward(part: int, micro: int, hidden: Tensor | None) -> Any:
        out = torch.ones(2, 3, requires_grad=True) * 1 if hidden is None else hidden * 1
        if (part, micro) == (1, 2):
            out = out.T
        return SimpleNamespace(hidden=None if part == 3 else out, loss=out.sum())

    began = time.monotonic()
    with pytest.raises(PipelineError) as caught:
        pipeline.run(9, forward, lambda part, micro: None)
    assert time.monotonic() - began < 20
    message = str(caught.value)
    if world.rank == 1:
        made = "the forward pass of part 1 on micro-batch 2 made ((3, 2), torch.float32); the pipeline carries (2, 3), "
        assert message.startswith(made), message
    else:
        assert message.startswith(f"pipeline stage {world.rank} (rank {world.rank})"), message
    if world.rank == 2:
        # How far it had come when the other end went away depends on timing; whom it blames does not.
        assert "pipeline stage 1 (rank 1)" in message
    assert message.count("\n") == 0


def cases(world: Any, folder: Path) -> None:
    torch.use_deterministic_algorithms(True)
    parity(world)
    stress(world, folder)
    failure(world)


def test_pipeline(tmp_path):
    spawn(4, cases, tmp_path)


def test_one_stage_is_the_plain_loop():
    """No communication, and each backward pass right after its forward pass."""
    calls: list[tuple[str, int]] = []
    weight = torch.ones((), requires_grad=True)

    def forward(part: int, micro: int, hidden: Tensor | None) -> Any:
        assert (part, hidden) == (0, None)
        calls.append(("forward", micro))
        return SimpleNamespace(hidden=None, loss=weight * (micro + 1))

    pipeline = Pipeline(Layout(), ALONE, torch.device("cpu"), torch.float32, (1, 1, 1))
    pipeline.run(3, forward, lambda part, micro: calls.append(("done", micro)))
    assert calls == [(what, micro) for micro in range(3) for what in ("forward", "done")]
    assert weight.grad.item() == 6
    assert [output.loss.item() for output in pipeline.evaluate(2, forward)] == [1, 2]
