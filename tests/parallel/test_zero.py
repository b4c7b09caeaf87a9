"""The sharded optimizer on real processes against the same on one process, bit for bit.

Gradients are made up leaf by leaf, eight leaves a step. What a rank would have computed is the sum of the leaves that
it (or those who share the parameter's tokens with it) worked on, in the fixed tree; one process sums all of them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homegrown.config import ConfigError, ModelConfig, OptimConfig
from homegrown.model import Longcat
from homegrown.parallel.collectives import TRAFFIC
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import KINDS, Layout
from homegrown.parallel.tree import tree_sum
from homegrown.parallel.zero import ShardedOptimizer, build_optimizer
from tests.train.tiny import model_config

from .spawn import spawn

MODEL = model_config()
OPTIM = OptimConfig()
LEAVES, STEPS = 8, 3
TABLE, WORDS = "ngram_embeddings.table", "embed_tokens.weight"
BUCKET = 100_000
"""Bytes: several buckets, some of one piece."""

LAYOUTS: dict[str, dict[str, int]] = {
    "dp2": {"dp": 2}, "dp4": {"dp": 4}, "dp8": {"dp": 8}, "tp2": {"tp": 2}, "cp2": {"cp": 2},
    "ep2": {"dp": 2, "ep": 2}, "embp2": {"dp": 2, "embp": 2}, "pp2": {"pp": 2},
    "dp4 ep2 embp4": {"dp": 4, "ep": 2, "embp": 4}, "dp2 tp2": {"dp": 2, "tp": 2},
    "pp2 dp2 tp2 ep2 embp2": {"pp": 2, "dp": 2, "tp": 2, "ep": 2, "embp": 2},
    "dp2 cp2 tp2 ep4 embp2": {"dp": 2, "cp": 2, "tp": 2, "ep": 4, "embp": 2},
}  # fmt: skip


def layout_of(sizes: dict[str, int], layers: int = MODEL.num_layers) -> Layout:
    return Layout(**sizes, part_layers=(layers // sizes.get("pp", 1),) * sizes.get("pp", 1))


def config_for(layout: Layout) -> ModelConfig:
    # Experts must divide among four.
    return model_config(n_routed_experts=8)


def whole_weights(dtype: torch.dtype) -> dict[str, Tensor]:
    model = Longcat(config_for(Layout()))
    model.init_weights(0)
    return {name: weight.detach() for name, weight in model.cast(dtype).named_parameters()}


def random(key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def leaf(name: str, weight: Tensor, step: int, number: int, lazy: bool) -> Tensor:
    """The gradient of a leaf; for the lazy table only some rows."""
    gradient = random(f"{name} {step} {number}", tuple(weight.shape), weight.dtype)
    if name.startswith(WORDS):
        # Whether both ends of the model are added leaf by leaf or at last must not matter: no sum is rounded.
        return gradient.mul(16).round().div(16)
    if not (lazy and name == TABLE):
        return gradient
    rows = torch.arange(number % 3, len(weight), 3 + number % 2)
    return torch.sparse_coo_tensor(rows[None], gradient[rows], weight.shape, is_coalesced=True, check_invariants=True)


def part(gradient: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """A shard of a gradient; a sparse one is cut by rows."""
    if not gradient.is_sparse:
        return gradient.narrow(dim, start, stop - start).contiguous()
    rows = gradient.indices()[0]
    here = (rows >= start) & (rows < stop)
    return torch.sparse_coo_tensor(
        rows[here][None] - start, gradient.values()[here], (stop - start, gradient.shape[1]),
        is_coalesced=True, check_invariants=True,
    )  # fmt: skip


def takes_part(name: str, step: int) -> bool:
    """The draft head rests at step 1."""
    return step != 1 or not name.startswith("mtp.")


class Worker:
    """A rank's weights, optimizer and made-up gradients."""

    def __init__(self, layout: Layout, rank: int, dtype: torch.dtype, lazy: bool, groups: Groups) -> None:
        self.layout, self.rank, self.lazy, self.model = layout, rank, lazy, config_for(layout)
        self.whole = whole_weights(dtype)
        self.shards = {
            name: layout.shard(name, tuple(weight.shape), rank, self.model) for name, weight in self.whole.items()
        }
        self.weights = {
            name: nn.Parameter(part(self.whole[name], shard.dim, shard.start, shard.stop).clone())
            for name, shard in self.shards.items()
            if shard is not None
        }
        for weight in self.weights.values():
            weight.grad_dtype = None
        self.optimizer = ShardedOptimizer(
            self.weights, groups, OPTIM, self.model, False, ("n-gram tables",) if lazy else (),
            gradient_dtype=torch.float32, bucket_bytes=BUCKET,
        )  # fmt: skip

    def leaves(self, name: str) -> range:
        """Leaves whose gradients a rank's part of a parameter sees: those of all ranks that share its tokens."""
        each = LEAVES // self.layout.tokens
        size = {"": 1, **{axis: getattr(self.layout, axis) for axis in ("tp", "ep", "embp")}}[self.layout.axis(name)]
        first = self.layout.token_rank(self.rank) // size * size
        return range(first * each, (first + size) * each)

    def kinds(self, name: str) -> list[str]:
        """The word embedding is used at both ends of the model."""
        if name != WORDS:
            return [name]
        parts = self.layout.parts_of(self.rank)
        return [f"{name} {end}" for end, here in (("first", parts[0].first), ("last", parts[-1].last)) if here]

    def backward(self, step: int) -> None:
        for name, weight in self.weights.items():
            if not takes_part(name, step):
                continue
            shard = self.shards[name]
            leaves = [
                part(leaf(kind, self.whole[name], step, number, self.lazy), shard.dim, shard.start, shard.stop)
                for kind in self.kinds(name)
                for number in self.leaves(name)
            ]
            total = tree_sum(leaves)
            weight.grad = total if total.is_sparse else total.float()

    def step(self, step: int, active: bool) -> str:
        """One step; the norm's bits. Step 2 is rejected."""
        self.backward(step)
        self.optimizer.reduce((lambda name: takes_part(name, step)) if active else None)
        norm = self.optimizer.grad_norm()
        self.optimizer.step(1.0, (1.0 / norm).clamp(max=1.0), torch.tensor(float(step != 2)))
        self.optimizer.zero_grad()
        return norm.item().hex()


def groups_of(layout: Layout, world: Any) -> Groups | None:
    """The groups of a layout on the first ranks; the others make as many of their own, because PyTorch numbers them."""
    if world.rank < layout.world:
        return Groups(layout, world.rank, 60)
    made = {layout.members(kind, 0) for kind in KINDS}
    for ranks in made:
        if 1 < len(ranks) < world.size:
            torch.distributed.new_group([world.rank], use_local_synchronization=True)
    torch.distributed.new_group(backend="gloo")  # the one for saving is of all processes
    return None


def alone(dtype: torch.dtype, lazy: bool) -> Worker:
    layout = layout_of({})
    return Worker(layout, 0, dtype, lazy, Groups(layout, 0, 1.0))


def different(worker: Worker, reference: dict[str, Tensor], state: dict[str, Tensor]) -> Iterator[str]:
    """Weights and pieces that are not what one process has."""
    for name, weight in worker.weights.items():
        shard = worker.shards[name]
        if not torch.equal(weight, part(reference[name], shard.dim, shard.start, shard.stop)):
            yield name
    for key, tensor in worker.optimizer.state().items():
        if not torch.equal(tensor, state[key]):
            yield key


CASES = [
    *((name, "float32", True) for name in LAYOUTS),
    ("dp2", "bfloat16", True),
    ("dp4", "float32", False),
    ("dp4", "bfloat16", True),
    ("dp8", "bfloat16", False),
    ("pp2 dp2 tp2 ep2 embp2", "bfloat16", False),
]


def run_cases(world: Any, folder: Path) -> dict[tuple[str, str, bool], Any]:
    results = {}
    for case in CASES:
        name, dtype, lazy = case
        layout = layout_of(LAYOUTS[name])
        groups = groups_of(layout, world)
        if groups is None:
            continue
        worker = Worker(layout, world.rank, getattr(torch, dtype), lazy, groups)
        norms = [worker.step(step, active=step % 2 == 0) for step in range(STEPS)]
        known = torch.load(folder / f"{dtype} {lazy}")
        results[case] = {
            "norms": norms, "owned": sorted(worker.optimizer.state()),
            "different": list(different(worker, known["weights"], known["state"])),
        }  # fmt: skip
    results["traffic"] = traffic(world)
    results["resumed"] = resumed(world, folder)
    results["unused"] = unused(world)
    results["refused"] = refusals(world)
    return results


def traffic(world: Any) -> dict[str, Any] | None:
    """Exchanges of one step of dense parameters."""
    layout = layout_of({"dp": 4})
    groups = groups_of(layout, world)
    if groups is None:
        return None
    worker = Worker(layout, world.rank, torch.float32, False, groups)
    worker.backward(0)
    counts = []
    for act in (lambda: worker.optimizer.reduce(lambda name: True), lambda: worker.optimizer.step(1.0)):
        TRAFFIC.reset()
        act()
        counts.append(
            {
                op: sum(calls for (each, _), (calls, _) in TRAFFIC.totals.items() if each == op)
                for op, _ in TRAFFIC.totals
            }
        )
    buckets = [len(exchange.buckets()) for _, exchange in worker.optimizer._routes.dense]
    gone = all(weight.grad is None for weight in worker.weights.values())
    return {"counts": counts, "buckets": sum(buckets), "gone": gone, "bytes": worker.optimizer.bytes()}


def resumed(world: Any, folder: Path) -> list[str] | None:
    """State saved by one layout, loaded by another, and a step there."""
    first, second = (layout_of(LAYOUTS[name]) for name in ("dp4 ep2 embp4", "pp2 dp2 tp2 ep2 embp2"))
    groups = groups_of(first, world)
    if groups is not None:
        worker = Worker(first, world.rank, torch.bfloat16, True, groups)
        worker.step(0, active=True)
        torch.save(worker.optimizer.state(), folder / f"saved {world.rank}")
    torch.distributed.barrier()
    saved = {}
    for rank in range(first.world):
        saved |= torch.load(folder / f"saved {rank}")
    worker = Worker(second, world.rank, torch.bfloat16, True, Groups(second, world.rank, 60))
    worker.optimizer.load({key: saved[key] for key in worker.optimizer.state()})
    worker.step(1, active=False)
    worker.step(2, active=True)
    known = torch.load(folder / "bfloat16 True")
    return list(different(worker, known["weights"], known["state"]))


def unused(world: Any) -> list[str] | None:
    """Experts and rows that no token of the second rank used: it has no gradient, the first one has."""
    layout = layout_of({"dp": 2})
    groups = groups_of(layout, world)
    if groups is None:
        return None
    names = ("layers.0.mlp.experts.down_proj", TABLE)
    both, one = Worker(layout, world.rank, torch.float32, True, groups), alone(torch.float32, True)
    for worker in (both, one):
        worker.backward(0)
        for name in names:
            halved = tree_sum([leaf(name, worker.whole[name], 0, number, True) for number in range(LEAVES // 2)])
            worker.weights[name].grad = halved if worker is one or world.rank == 0 else None
        worker.optimizer.reduce()
        worker.optimizer.step(1.0, 1.0 / worker.optimizer.grad_norm())
    weights = {name: weight.detach() for name, weight in one.weights.items()}
    return list(different(both, weights, one.optimizer.state()))


def refusals(world: Any) -> list[str]:
    """What the optimizer does not take, said before anything is sent."""
    layout = layout_of({"dp": 2})
    groups = groups_of(layout, world)
    if groups is None:
        return []
    worker = Worker(layout, world.rank, torch.bfloat16, True, groups)
    said = []
    with pytest.raises(ConfigError) as caught:
        worker.optimizer.step(1.0)
    said.append(str(caught.value))
    worker.weights["norm.weight"].grad = torch.zeros(32)
    for _, exchange in worker.optimizer._routes.dense:
        exchange._gradient_dtype = torch.bfloat16
    with pytest.raises(ConfigError) as caught:
        worker.optimizer.reduce(lambda name: name == "norm.weight")
    said.append(str(caught.value))
    worker.weights[TABLE].grad = torch.zeros(worker.weights[TABLE].shape)
    with pytest.raises(ConfigError) as caught:
        worker.optimizer.reduce(lambda name: name == TABLE)
    said.append(str(caught.value))
    worker.weights["lm_head.weight"].grad = torch.zeros(304, 32).to_sparse(1)
    with pytest.raises(ConfigError) as caught:
        worker.optimizer.reduce(lambda name: name == "lm_head.weight")
    said.append(str(caught.value))
    return said


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("zero")
    for dtype, lazy in itertools.product(("float32", "bfloat16"), (True, False)):
        worker = alone(getattr(torch, dtype), lazy)
        NORMS[dtype, lazy] = [worker.step(step, active=False) for step in range(STEPS)]
        torch.save(
            {"weights": {k: v.detach() for k, v in worker.weights.items()}, "state": worker.optimizer.state()},
            folder / f"{dtype} {lazy}",
        )
        KEYS[dtype, lazy] = sorted(worker.optimizer.state())
    return spawn(8, run_cases, folder)


NORMS: dict[tuple[str, bool], list[str]] = {}
KEYS: dict[tuple[str, bool], list[str]] = {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {case[1]}{', lazy rows' if case[2] else ''}")
def test_every_layout_has_the_bits_of_one_process(outcome, case):
    ranks = [results[case] for results in outcome if case in results]
    assert len(ranks) == layout_of(LAYOUTS[case[0]]).world
    assert [result["different"] for result in ranks] == [[] for _ in ranks]
    assert all(result["norms"] == NORMS[case[1:]] for result in ranks)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_piece_has_one_owner(outcome, case):
    owned = [key for results in outcome if case in results for key in results[case]["owned"]]
    assert sorted(owned) == KEYS[case[1:]]


def test_two_exchanges_a_bucket_each_way(outcome):
    for rank in range(4):
        found = outcome[rank]["traffic"]
        assert found["buckets"] > 4
        assert found["counts"] == [{"all_to_all": 2 * found["buckets"]}] * 2
        assert found["gone"], "gradients have moved"


def test_bytes_are_those_of_the_state(outcome):
    """Owned numbers of four ranks are those of the model, and what each holds is what it says."""
    worker = alone(torch.float32, False)
    numbers = sum(weight.numel() for weight in worker.weights.values())
    reports = [outcome[rank]["traffic"]["bytes"] for rank in range(4)]
    assert sum(report["masters"] for report in reports) == 4 * numbers
    assert sum(report["owned gradients"] for report in reports) == 4 * numbers
    state = worker.optimizer.state()
    assert sum(report["state"] for report in reports) == sum(
        4 * tensor.numel() for key, tensor in state.items() if not key.endswith("/master")
    )
    assert all(report["gradients"] == 4 * numbers for report in reports)
    # Two buckets packed and arrived, and the first sums of one; some buckets are one large piece
    assert all(BUCKET < report["staging"] < 40 * BUCKET for report in reports)
    assert worker.optimizer.bytes()["masters"] == 0
    assert worker.optimizer.bytes()["staging"] == 0


def test_state_of_one_layout_continues_in_another(outcome):
    assert [results["resumed"] for results in outcome] == [[]] * 8


def test_a_gradient_that_some_ranks_lack_is_zero_there(outcome):
    assert [results["unused"] for results in outcome[:2]] == [[], []]


def test_refusals(outcome):
    for results in outcome[:2]:
        assert results["refused"] == [
            "optimizer step without a reduction: call `reduce` after the backward passes of every step",
            "parameter 'norm.weight': its torch.float32 gradient would be rounded to torch.bfloat16 on the way to its "
            "owner; build the optimizer with `gradient_dtype` of at least that width",
            "parameter 'ngram_embeddings.table': a row-lazy table on several ranks needs sparse gradients; look rows "
            "up with a lookup that makes such, or take it out of `row_lazy`",
            "parameter 'lm_head.weight': sparse gradients travel between ranks only of n-gram tables in `row_lazy`",
        ]


def test_one_process_updates_its_weights_where_they_are():
    model = Longcat(MODEL)
    model.init_weights(0)
    optimizer = build_optimizer(model, OPTIM, MODEL, bf16_fast=False)
    for key, tensor in optimizer.state().items():
        if key.endswith("/master"):
            weight = model.get_parameter(key.partition("@")[0])
            assert tensor.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
    gradient = torch.ones_like(model.norm.weight)
    model.norm.weight.grad = gradient
    optimizer.reduce()
    assert model.norm.weight.grad is gradient
