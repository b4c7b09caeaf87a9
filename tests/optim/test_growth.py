from __future__ import annotations

import pytest
import torch

from homegrown.config import ConfigError, OptimConfig
from homegrown.model import Longcat
from homegrown.optim import repeat_layers, stack_layers
from homegrown.parallel.zero import build_optimizer


@pytest.fixture
def source(model) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        for layer in model.layers.values():
            layer.mlp.router.e_score_correction_bias.normal_()
    return model.state_dict()


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_layers_are_stacked_in_order_and_the_rest_is_copied(source, factor, tiny_config):
    config = tiny_config(num_layers=2 * factor)
    grown = Longcat(config)
    grown.load_state_dict(stack_layers(source, tiny_config(), config))
    for name, tensor in grown.state_dict().items():
        root, _, rest = name.partition(".")
        if root == "layers":
            layer, _, rest = rest.partition(".")
            name = f"layers.{int(layer) % 2}.{rest}"
        assert torch.equal(tensor, source[name]), name


def test_a_grown_model_runs(source, tiny_config):
    config = tiny_config(num_layers=4)
    grown = Longcat(config)
    grown.load_state_dict(stack_layers(source, tiny_config(), config))
    assert grown(torch.arange(4, 20).view(1, 16)).isfinite().all()


def test_optimizer_state_grows_by_the_same_rule(model, config, backward, source, tiny_config):
    optimizer = build_optimizer(model, OptimConfig(), config, bf16_fast=False)
    backward(model, 0)
    optimizer.step(1.0)
    deep = tiny_config(num_layers=4)
    grown = Longcat(deep)
    grown.load_state_dict(stack_layers(source, tiny_config(), deep))
    other = build_optimizer(grown, OptimConfig(), deep, bf16_fast=False)
    other.load(repeat_layers(optimizer.state(), 2, 4))
    key = "mlp.experts.down_proj@1:2/momentum"
    assert torch.equal(other.state()[f"layers.3.{key}"], optimizer.state()[f"layers.1.{key}"])


def test_depths_that_do_not_divide_are_refused(source, tiny_config):
    with pytest.raises(ConfigError, match=r"model.num_layers = 3: must be a multiple of the 2 layers"):
        stack_layers(source, tiny_config(), tiny_config(num_layers=3))


def test_missing_misshapen_and_unknown_tensors_are_named(source, tiny_config):
    config = tiny_config(num_layers=4)
    name = "layers.1.mlps.0.up_proj.weight"
    without = {key: tensor for key, tensor in source.items() if key != name}
    with pytest.raises(ConfigError, match=rf"lacks '{name}', from which 'layers.1.mlps.0.up_proj.weight' would come"):
        stack_layers(without, tiny_config(), config)
    with pytest.raises(ConfigError, match=rf"'{name}' of the source has shape \[2, 2\]; the grown model needs \[40, 2"):
        stack_layers({**source, name: torch.zeros(2, 2)}, tiny_config(), config)
    with pytest.raises(ConfigError, match=r"no place for the source's 'layers.0.odd'"):
        stack_layers({**source, "layers.0.odd": torch.zeros(2)}, tiny_config(), config)
