"""What two processes with the made-up accelerator do. Every case is a function of the process's `World`."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from homegrown import device as devices
from homegrown.config import ParallelConfig, TrainConfig
from homegrown.model import Longcat
from homegrown.parallel import collectives
from homegrown.parallel.groups import Group
from homegrown.parallel.world import World
from homegrown.train.run import Workbench

from ..train import corrupted, tiny

CPU = torch.device("cpu")
CASES: dict[str, Callable[[World], None]] = {}


def case(function: Callable[[World], None]) -> Callable[[World], None]:
    CASES[function.__name__] = function
    return function


def run_cases(world: World) -> dict[str, str]:
    """Traceback of every case, empty where it passed."""
    outcomes = {}
    for name, function in CASES.items():
        try:
            function(world)
            outcomes[name] = ""
        except BaseException:
            outcomes[name] = traceback.format_exc()
    return outcomes


def same_bits(first: Tensor, second: Tensor) -> bool:
    one, two = (item.detach().cpu().contiguous() for item in (first, second))
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), two.reshape(-1).view(torch.uint8))


# The device file


@case
def every_process_has_a_device_of_its_own(world: World) -> None:
    assert world.device == torch.device("abacus", world.rank)
    assert torch.accelerator.current_device_index() == world.rank
    assert torch.empty(1, device="abacus").device == world.device


@case
def it_is_found_and_named(world: World) -> None:
    assert devices.available() == ["cpu", *(f"abacus:{index}" for index in range(8))]
    assert devices.pick("auto") == world.device
    assert devices.pick("cpu") == CPU
    with pytest.raises(devices.DeviceError, match="'abacus:8': no device has that index; this machine has: cpu, abac"):
        devices.pick("abacus:8")
    with pytest.raises(devices.DeviceError, match="'xpu': not on this machine"):
        devices.pick("xpu")
    assert devices.collective_backend(world.device) == "beads"
    assert devices.collective_backends(world.device) == "cpu:gloo,abacus:beads"
    assert devices.collective_backends(CPU) == "gloo"


@case
def it_is_described_by_what_it_says(world: World) -> None:
    info = devices.describe(world.device)
    assert (info.type, info.name, info.memory_bytes) == ("abacus", "Abacus 1", 1 << 30)
    assert (info.features.bf16_fast, info.features.architecture) == (False, "")
    assert info.cores == devices.usable_cores()
    assert not devices.has_sparse(world.device)


@case
def its_speed_is_measured(world: World) -> None:
    assert 1e8 < devices.measure_peak(world.device, torch.float32, seconds=0.01) < 1e15
    assert 1e8 < devices.measure_bandwidth(world.device, seconds=0.01) < 1e13
    devices.synchronize(world.device)
    with pytest.raises(devices.DeviceError, match=r"device abacus:\d does not multiply .* torch\.bool"):
        devices.measure_peak(world.device, torch.bool)


@case
def its_memory_is_counted_and_ends(world: World) -> None:
    torch.accelerator.reset_peak_memory_stats(world.device)
    before = devices.peak_memory(world.device)
    buffer = torch.empty(100 << 20, dtype=torch.uint8, device=world.device)
    del buffer
    assert devices.peak_memory(world.device) - before == 100 << 20
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty((1 << 30) + 1, dtype=torch.uint8, device=world.device)


@case
def nothing_crosses_to_the_host_unasked(world: World) -> None:
    """Otherwise the tests of the package on this device would prove little."""
    here, there = torch.ones(3, device=world.device), torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        here + there
    with pytest.raises((RuntimeError, TypeError)):
        torch.mm(here[None], there[:, None])
    with pytest.raises(TypeError):
        here.numpy()
    with pytest.raises(RuntimeError):
        torch.cat((here, torch.ones(3, device=f"abacus:{world.rank + 2}")))


@case
def seeds_reach_it(world: World) -> None:
    devices.seed_all(5)
    first = torch.rand(4, device=world.device)
    devices.seed_all(5)
    assert same_bits(torch.rand(4, device=world.device), first)


# Training


def trained(
    config: TrainConfig, device: str, steps: int = 3, world: World | None = None
) -> tuple[list[str], dict[str, Tensor]]:
    """Every loss term and the gradient norm of some steps, and all that a checkpoint would hold here."""
    alone = World(0, 1, 0, devices.pick(device))
    bench = Workbench(config, alone if world is None else dataclasses.replace(world, device=alone.device))
    results = [bench.stepper.step(step, bench.batch(step - 1)) for step in range(1, steps + 1)]
    figures = [float(value).hex() for result in results for value in (*result.terms.values(), result.grad_norm)]
    assert {tensor.device.type for _, tensor in bench.assembly.named_parameters()} == {bench.device.type}
    return figures, bench.stepper.wanted()


def config_for(world: World, **changes: Any) -> TrainConfig:
    folder = Path(os.environ["MADEUP_WORK"]) / f"{world.rank}"
    if not folder.exists():
        tiny.write_tokens(tiny.write_corpus(folder / "corpus"), folder / "data")
    # A device without fast bfloat16 runs Newton-Schulz in float32, and one without sparse tensors takes dense gradients
    # of the tables: both are settled here, so that the CPU does the same arithmetic.
    return tiny.replaced(
        tiny.train_config(folder / "data"), optim__muon_dtype="float32", optim__ngram_rows="all", **changes
    )


def same_training(world: World, **changes: Any) -> None:
    config = config_for(world, **changes)
    (wanted, on_cpu), (got, on_device) = trained(config, "cpu"), trained(config, str(world.device))
    assert got == wanted
    assert [name for name in on_cpu if not same_bits(on_cpu[name], on_device[name])] == []


@case
def training_steps_have_the_bits_of_the_cpu(world: World) -> None:
    """All features on: one process in float32 with recomputation, the other in bfloat16."""
    if world.rank == 0:
        same_training(world, recompute="full")
    else:
        same_training(world, precision="bfloat16")


@case
def training_together_has_the_bits_of_the_cpu(world: World) -> None:
    """The whole parallel path on both devices: each dimension over the two processes, and its collectives."""
    for sizes in ({}, {"tp": 2}, {"cp": 2}, {"pp": 2}, {"ep": 2, "embp": 2}):
        config = config_for(world, parallel=ParallelConfig(**sizes), data__micro_batch=1)
        (wanted, on_cpu), (got, on_device) = (
            trained(config, device, 2, world) for device in ("cpu", str(world.device))
        )
        assert got == wanted, sizes
        assert [name for name in on_cpu if not same_bits(on_cpu[name], on_device[name])] == [], sizes


@case
def lazy_rows_without_sparse_tensors_are_the_same_to_rounding(world: World) -> None:
    config = tiny.replaced(config_for(world), optim__ngram_rows="lazy")
    (wanted, _), (got, _) = trained(config, "cpu", 2), trained(config, str(world.device), 2)
    for one, two in zip(wanted, got, strict=True):
        assert float.fromhex(one) == pytest.approx(float.fromhex(two), rel=1e-4, abs=1e-7)


# Between two processes


def group_of(world: World) -> Group:
    return Group("world", tuple(range(world.size)), world.rank, dist.group.WORLD)


@case
def both_backends_are_there_and_each_moves_its_own(world: World) -> None:
    for device in (CPU, world.device):
        tensor = torch.tensor([1.0, world.rank], device=device)
        dist.all_reduce(tensor)
        assert tensor.tolist() == [2.0, 1.0]
    backends = {device: dist.group.WORLD._get_backend(device).name() for device in (CPU, world.device)}
    assert backends == {CPU: "gloo", world.device: "beads"}
    alone = dist.new_group(backend="beads")
    with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
        dist.all_reduce(torch.ones(1), group=alone)


@case
def collectives_have_the_bits_of_the_cpu(world: World) -> None:
    group = group_of(world)
    generator = torch.Generator().manual_seed(world.rank)
    send, receive = ([0, 5], [2, 5]) if world.rank else ([3, 2], [3, 0])
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        numbers = (torch.randn(2, 5, 3, generator=generator, dtype=torch.float64) * 100).to(dtype)
        calls: list[Callable[[Tensor], Tensor]] = [
            lambda x: collectives.gather(x, group),
            lambda x: collectives.exchange(x[0], group, send, receive),
            lambda x: collectives.start_exchange(x[1], group, send, receive).wait(),
            lambda x: collectives.exchange(x[0, :0], group, [0, 0], [0, 0]),
        ]
        if dtype.is_floating_point:
            calls += [lambda x: collectives.sum_scatter(x, group), lambda x: collectives.all_reduce(x[0], group)]
        for call in calls:
            got = call(numbers.to(world.device))
            assert got.device == world.device
            assert same_bits(got, call(numbers))
    assert collectives.gather_objects(world.rank, group) == [0, 1]
    collectives.barrier(group)


@case
def gradients_travel(world: World) -> None:
    group = group_of(world)
    send, receive = ([1, 2], [1, 1]) if world.rank == 0 else ([1, 2], [2, 2])
    grads = []
    for device in (CPU, world.device):
        x = torch.arange(12.0).view(3, 4).add(world.rank).to(device).requires_grad_()
        rows = collectives.all_to_all(x, group, send, receive)
        whole = collectives.all_gather(x.sin(), group, 0)
        part = collectives.reduce_scatter(torch.cat((x, x * x)), group, 0)
        (rows.square().sum() + (whole * whole).sum() + part.cos().sum()).backward()
        grads.append(x.grad)
    assert same_bits(*grads)


@case
def point_to_point(world: World) -> None:
    other = 1 - world.rank
    mine, theirs = torch.full((3,), float(world.rank), device=world.device), torch.empty(3, device=world.device)
    works = [dist.isend(mine, other), dist.irecv(theirs, other)]
    for work in works:
        work.wait()
    assert theirs.tolist() == [other] * 3


@case
def data_parallel_gradients_have_the_bits_of_the_cpu(world: World) -> None:
    """Each process its own row of a batch, gradients summed over both."""
    group, config = group_of(world), tiny.model_config()
    tokens = torch.randint(4, config.vocab_size, (2, 33), generator=torch.Generator().manual_seed(0))
    sums = []
    for device in (CPU, world.device):
        with device:
            model = Longcat(config)
        model.init_weights(0)
        model(tokens[world.rank, None].to(device)).float().logsumexp(-1).sum().backward()
        found = {name: item.grad for name, item in model.named_parameters() if item.grad is not None}
        sums.append({name: collectives.all_reduce(grad.to_dense(), group) for name, grad in found.items()})
    assert sums[0].keys() == sums[1].keys()
    assert [name for name in sums[0] if not same_bits(sums[0][name], sums[1][name])] == []


@case
def a_checkpoint_moves_between_devices(world: World) -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(torch.arange(3, device=world.device), f"{folder}/x.pt")
        loaded = torch.load(f"{folder}/x.pt", weights_only=True)
        assert loaded.device == world.device
        assert torch.load(f"{folder}/x.pt", map_location="cpu", weights_only=True).tolist() == [0, 1, 2]


@case
def silent_corruption_is_found_on_it(world: World) -> None:
    """Checks find nothing and change no bit in a healthy run, and name the rank whose weight is another."""
    data = config_for(world).data.path
    # As in `config_for`; each process holds the tables, whose rows would travel as sparse tensors.
    settled = {"device": "auto", "optim__muon_dtype": "float32", "optim__ngram_rows": "all"}
    config = corrupted.config_of(data, ParallelConfig(embp=1), **settled)
    without, checked = corrupted.both(world, config)
    assert checked["error"] is None and checked == without
    config = tiny.replaced(config, check=corrupted.CHECKED)
    between = corrupted.flip_weight(1, "layers.1.self_attn.0.q_b_proj.weight")
    assert corrupted.trained(world, config, between=between)["suspects"].keys() == {1}
