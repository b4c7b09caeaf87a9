"""Activation memory: every way of keeping it gives the same bits, and what is kept is known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from homegrown.config import ConfigError
from homegrown.model import Longcat
from homegrown.model.layers import DenseFFN, RMSNorm
from homegrown.ops import saving
from homegrown.train.activations import HostStore, Kept, kept_as_configured, measure_activations
from homegrown.train.losses import LossPlan, Micro, WholeRows, count_targets, forward_part, plan_losses

from . import tiny
from .test_step import batch_of, bits, one_step

TOKENS, HIDDEN, WIDTH = 12, 8, 20


class Half(nn.Module):
    """A norm and a dense network, large enough to count by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.recompute = False
        self.norm, self.ffn = RMSNorm(HIDDEN, 1e-5), DenseFFN(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.norm(x))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bytes_are_those_of_the_tensors(device):
    with torch.device(device):
        model = Half()
        x = torch.zeros(TOKENS, HIDDEN, requires_grad=True)
    for parameter in model.parameters():
        nn.init.ones_(parameter)

    def forward() -> Tensor:
        return model(x)

    # The norm keeps its input and one factor a token, the gate its two inputs; norm and gate are inputs of products.
    kept = 4 * TOKENS * (HIDDEN + 1 + 2 * WIDTH)
    assert measure_activations(forward, model, "selective") == Kept(kept, 0)
    assert measure_activations(forward, model, "none") == Kept(kept + 4 * TOKENS * (HIDDEN + WIDTH), 0)
    # From 900 bytes on: three tensors of the network's width.
    offloaded = measure_activations(forward, model, "none", "activations", least=900)
    assert offloaded == Kept(4 * TOKENS * (2 * HIDDEN + 1), 4 * TOKENS * 3 * WIDTH)


def whole(dtype: torch.dtype = torch.float32) -> tuple[Longcat, Micro, LossPlan]:
    config = tiny.train_config(None)  # type: ignore[arg-type]
    model = Longcat(config.model)
    model.init_weights(0)
    tokens = torch.randint(4, 300, (2, 65), generator=torch.Generator().manual_seed(0))
    micro = Micro(tokens, torch.zeros_like(tokens))
    return (
        model.cast(dtype),
        micro,
        plan_losses(config.loss, config.model, 2.0, count_targets(micro.first, config.model), 1, 1, 9),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_mode_keeps_less(dtype):
    model, micro, plan = whole(dtype)
    kept = [
        measure_activations(lambda: forward_part(model, None, micro, plan, WholeRows()), model, recompute).device
        for recompute in ("none", "selective", "full")
    ]
    assert kept[0] > 1.4 * kept[1] > 1.4 * 1.2 * kept[2]
    assert model.recompute is False


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_no_bit(dataset, recompute):
    config = tiny.train_config(dataset.path)
    batch = batch_of(config)
    kept, expected = one_step(config, batch, torch.bfloat16)
    again, found = one_step(tiny.replaced(config, recompute=recompute), batch, torch.bfloat16)
    assert bits([kept]) == bits([again])
    assert torch.equal(kept.counts, again.counts)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_tensors_come_back_from_the_host_as_they_went(recompute):
    gradients = []
    for away in (False, True):
        model, micro, plan = whole()
        model.recompute = recompute == "full"
        store = HostStore(model.parameters(), least=256) if away else None
        with saving(recompute == "selective", store):
            out = forward_part(model, None, micro, plan, WholeRows())
        out.loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        if store is not None:
            assert len(store._moved) > 10
    different = [name for name, grad in gradients[0].items() if not torch.equal(grad, gradients[1][name])]
    assert different == []


def test_the_host_holds_each_storage_once_and_no_parameter():
    model = Half()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    store = HostStore(model.parameters(), least=1)
    with saving(False, store):
        out = model(torch.ones(TOKENS, HIDDEN, requires_grad=True))
    sizes = sorted(host.numel() for host, _ in store._moved.values())
    assert sizes == sorted(4 * TOKENS * size for size in (1, HIDDEN, HIDDEN, WIDTH, WIDTH, WIDTH))
    out.sum().backward()


def test_offload_on_the_cpu_is_refused():
    config = tiny.replaced(tiny.train_config(None), offload="activations")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'offload = "activations": this run computes on the CPU'):
        kept_as_configured(config, [Longcat(config.model)], torch.device("cpu"))
