"""Parameters of shapes: against models that are built, and against what their makers say."""

from collections import Counter

import pytest
import torch

from homegrown.config import ConfigError, SparseConfig, load_preset, preset_names
from homegrown.model import count
from homegrown.model.longcat import Longcat
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.matrices import indexers, layer_matrices
from homegrown.plan.shapes import parameters, preset_shape, preset_shape_names, shape_of
from homegrown.train.dryrun.components import component_of
from tests.plan.published import DEEPSEEK_V3, KIMI_K2, KORTHIKANTI, LLAMA_70B, LLAMA_405B, QWEN_30B, QWEN_235B, gpt
from tests.train.tiny import model_config


def built(config):
    """Numbers by component of a model that is built, buffers included."""
    with torch.device("meta"):
        model = Longcat(config)
    sizes = Counter()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        sizes[component_of(name)] += tensor.numel()
    return dict(sizes)


@pytest.mark.parametrize("preset", preset_names())
def test_presets_count_as_the_models_they_build(preset):
    config = load_preset(preset)
    shape, counted = parameters(shape_of(config)), count(config)
    assert (shape.total, shape.draft) == (counted.total, counted.mtp)
    for real in (0, 3, config.moe_topk):
        assert shape.active(real) == counted.active(real)
    found = built(config)
    assert {"draft head": shape.draft} | shape.by_component == {"draft head": 0} | found


@pytest.mark.parametrize(
    "changes",
    [
        {"router_bias": True},
        {"sparse": SparseConfig(topk=12, heads=4, head_dim=8, init_tokens=1, local_tokens=4, k_norm="layer", share=4)},
        {"sparse": SparseConfig(topk=12, heads=4, head_dim=8, init_tokens=1, local_tokens=4, share=1)},
    ],
)
def test_rarer_features_count_too(changes):
    config = model_config(**changes)
    shape = parameters(shape_of(config))
    assert (shape.total, shape.draft) == (count(config).total, count(config).mtp)


@pytest.mark.parametrize(
    ("shape", "billions", "digits"),
    [
        (preset_shape("longcat-flash"), 560.7, 1),  # arXiv 2509.01322: 560B
        (preset_shape("longcat-2.0"), 1638.6, 1),  # model card: 1.6T with 135B of n-gram embeddings
        (DEEPSEEK_V3, 671, 0),  # arXiv 2412.19437
        (LLAMA_405B, 405.853, 3),  # arXiv 2407.21783; model card
        (LLAMA_70B, 70.554, 3),
        (QWEN_235B, 235, 0),  # arXiv 2505.09388
        (QWEN_30B, 30.5, 1),
        (gpt(12288, 96, 96), 174.6, 1),  # arXiv 2104.04473 table 1 has 145.6B at 80 layers: 12 l h^2 (1 + ...)
        (KORTHIKANTI["1T"], 1008.0, 0),  # arXiv 2104.04473 table 1
    ],
)
def test_totals_are_the_published_ones(shape, billions, digits):
    assert round(parameters(shape).total / 1e9, digits) == billions


def test_active_parameters_are_the_published_ones():
    flash, two = parameters(preset_shape("longcat-flash")), parameters(preset_shape("longcat-2.0"))
    # arXiv 2509.01322 section 2: 18.6B to 31.3B, 27B on average (18.7, 27.1, 31.4 when counted to the end).
    assert [round(flash.active(real) / 1e9, 1) for real in (0, 8, 12)] == [18.7, 27.1, 31.4]
    assert flash.active() == flash.active(8)
    # Model card: 33B to 56B, about 48B on average; its n-gram tables 135B.
    assert [round(two.active(real) / 1e9) for real in (0, None, 12)] == [33, 48, 56]
    tables = two.by_component["n-gram tables"] + two.by_component["n-gram projections"]
    assert round(tables / 1e9, 1) == 135.0
    # Without indexers, as in the table that has 1,503.3B beside the n-gram tables.
    assert round((two.total - tables - two.by_component["indexer"]) / 1e9, 1) == 1503.3
    assert parameters(DEEPSEEK_V3).active() / 1e9 == pytest.approx(37, rel=0.02)
    assert parameters(DEEPSEEK_V3).draft / 1e9 == pytest.approx(11.5, rel=0.02)  # 14B with embedding and head
    assert parameters(KIMI_K2).total / 1e12 == pytest.approx(1.04, rel=0.015)  # arXiv 2507.20534; table 2 gives 1.026
    assert parameters(KIMI_K2).active() / 1e9 == pytest.approx(32, rel=0.02)


def test_a_tied_unembedding_is_used_and_counted_once():
    shape = parameters(gpt(64, 4, 2, vocab=1000))
    assert "head" not in shape.by_component
    layers = 2 * (12 * 64 * 64 + 13 * 64)  # 4 h^2 + 8 h^2 with 4 h + 5 h of biases and 4 h of norms
    assert shape.total == layers + (1000 + 2048) * 64 + 2 * 64
    assert shape.used == layers + 1000 * 64 + 2 * 64


def test_indexers_shared_by_layers_are_fractions():
    sparse = SparseConfig(topk=12, heads=4, head_dim=8, init_tokens=1, local_tokens=4, share=4)
    group = shape_of(model_config(sparse=sparse)).layers[0]
    assert indexers(group) == 0.5
    shape = shape_of(model_config(sparse=sparse))
    assert {matrix.copies for matrix in layer_matrices(shape, group) if matrix.part == "indexer"} == {0.5}


def test_names():
    assert "longcat-flash" in preset_shape_names() and "flash" not in preset_shape_names()
    assert preset_shape("flash").layers == preset_shape("longcat-flash").layers
    for name in preset_shape_names():
        assert preset_shape(name).name == name
    with pytest.raises(ConfigError, match="no model preset 'longcat-9'"):
        preset_shape("longcat-9")
    with pytest.raises(ConfigError, match=r"real = 13: must lie between 0 and model\.moe_topk = 12"):
        shape_of(load_preset("flash"), real=13)


def test_every_published_model_adds_up():
    """Totals as published, which are rounded to two or three digits; Kimi K2's shape gives 1.03T of 1.04T."""
    catalogue = Catalogue.load()
    for name in catalogue.models.things:
        published = catalogue.published(name)
        if published is not None and published.total is not None:
            assert parameters(catalogue.shape(name)).total == pytest.approx(published.total, rel=0.03), name
