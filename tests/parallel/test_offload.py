"""Optimizer state in host memory, on the made-up accelerator."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from torch import Tensor

from homegrown.config import OptimConfig
from homegrown.model import Longcat
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.parallel.zero import ShardedOptimizer
from tests import madeup
from tests.train.tiny import model_config


def trained(device: str, dtype: torch.dtype, offload: bool) -> tuple[dict[str, Tensor], dict[str, int], set[str]]:
    """Weights and state after three steps, the second of them rejected; bytes; where masters and moments are."""
    if device != "cpu":
        madeup.activate()
    config = model_config()
    with torch.device(device):
        model = Longcat(config)
    model.init_weights(0)
    model.cast(dtype)
    groups = Groups(Layout(part_layers=(config.num_layers,)), 0, 1.0)
    optimizer = ShardedOptimizer(
        dict(model.named_parameters()), groups, OptimConfig(), config, False, ("embedding",), offload=offload
    )
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(device, parameter.dtype)
        optimizer.reduce()
        scale = (1.0 / optimizer.grad_norm()).clamp(max=1.0)
        optimizer.step(1.0, scale, torch.tensor(float(step != 1), device=device))
    state = optimizer.state()
    places = {tensor.device.type for key, tensor in state.items() if not key.endswith(("/step", "/master"))}
    result = {name: tensor.detach().cpu().clone() for name, tensor in (*state.items(), *model.named_parameters())}
    return result, optimizer.bytes(), places


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offloaded_state_has_the_same_bits(dtype):
    with madeup.present(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there, memory, places = pool.submit(trained, madeup.DEVICE, dtype, True).result()
    here, without, _ = trained("cpu", dtype, False)
    assert places == {"cpu"}
    assert [name for name in here if not torch.equal(here[name], there[name])] == []
    assert memory["host"] + memory["state"] + memory["masters"] == without["state"] + without["masters"]
    counts = 4 * sum(name.endswith("/step") for name in here)
    assert memory["masters"] == 0 and memory["state"] == counts, "only counts of steps stay on the device"
