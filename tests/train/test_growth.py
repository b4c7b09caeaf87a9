"""Growth: a run that begins from the stacked layers of a saved shallower model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import homegrown
from homegrown.config import ConfigError, GrowthConfig, SparseConfig
from homegrown.model import Longcat
from homegrown.train.growth import grown_tensors
from homegrown.train.run import Workbench

from . import tiny


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A two-layer model's directory and its weights, biases that a controller has moved among them."""
    model = Longcat(tiny.model_config())
    model.init_weights(11)
    for layer, router in enumerate(model.routers()):
        router.e_score_correction_bias.copy_(torch.arange(9) * 2**-12 * (layer + 1))
    homegrown.save(model, None, tmp_path / "source")
    return tmp_path / "source", {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_layers_are_stacked_in_order(source):
    folder, weights = source
    grown = grown_tensors(folder, tiny.model_config(num_layers=4))
    assert len([name for name in grown if name.startswith("layers.3.")]) > 20
    for name, tensor in grown.items():
        parts = name.split(".")
        if parts[0] == "layers":
            parts[1] = str(int(parts[1]) % 2)
        assert torch.equal(tensor, weights[".".join(parts)]), name


def test_a_run_begins_from_its_source_and_trains_all_layers(source, dataset):
    folder, weights = source
    config = tiny.train_config(dataset.path, model=tiny.model_config(num_layers=4), growth=GrowthConfig(source=folder))
    bench = Workbench(config)
    for name, tensor in bench.model.state_dict().items():
        if name.startswith("layers.3."):
            assert torch.equal(tensor, weights[name.replace("layers.3.", "layers.1.")]), name
    bench.stepper.step(1, bench.batches.batch(0))
    layers = [dict(bench.model.layers[str(number)].named_parameters()) for number in range(4)]
    for name, parameter in layers[1].items():
        if parameter.ndim > 1:
            assert not torch.equal(parameter, layers[3][name]), name


def test_a_source_that_does_not_fit_is_refused(source, dataset):
    folder, _ = source
    for changes, message in (
        ({"num_layers": 3}, r"model\.num_layers = 3: must be a multiple of the 2 layers"),
        ({"hidden_size": 64}, r"of the source has shape"),
        ({"sparse": SparseConfig()}, r"has no place for the source's 'layers\.0\.self_attn\.0\.indexer"),
    ):
        config = tiny.train_config(dataset.path, model=tiny.model_config(**changes), growth=GrowthConfig(source=folder))
        with pytest.raises(ConfigError, match=message):
            Workbench(config)
