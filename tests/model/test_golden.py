"""Numbers that do not come from this repository's code: parameter tables, n-gram ids and YaRN values of the family.

The tables follow from the published configs (arXiv 2509.01322, 2601.21204, 2608.01662 and the LongCat-2.0 card).
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch

from homegrown.config import load_preset
from homegrown.model import Longcat, rope
from homegrown.model import count as count_parameters
from homegrown.model.ngram import ngram_ids
from tests import reference

PRESETS = ("flash", "flash-lite", "flash-lite-sparse", "longcat-2.0")

# Rows: Flash, Flash-Lite, Flash-Lite-Sparse, LongCat-2.0.
COUNTS = {
    "embed_tokens": (805_306_368, 402_653_184, 402_653_184, 1_342_177_280),
    "lm_head": (805_306_368, 402_653_184, 402_653_184, 1_342_177_280),
    "one attention": (90_572_800, 32_704_512, 32_704_512, 111_675_392),
    "attention": (5_072_076_800, 915_726_336, 915_726_336, 8_487_329_792),
    "norms": (694_272, 175_104, 175_104, 1_253_376),
    "one dense": (226_492_416, 56_623_104, 56_623_104, 301_989_888),
    "dense": (12_683_575_296, 1_585_446_912, 1_585_446_912, 22_951_231_488),
    "one expert": (37_748_736, 9_437_184, 9_437_184, 50_331_648),
    "experts": (541_165_879_296, 33_822_867_456, 33_822_867_456, 1_468_878_815_232),
    "router": (132_142_080, 16_520_448, 16_520_448, 278_955_264),
    "one indexer": (0, 0, 3_588_224, 7_602_304),
    "indexers": (0, 0, 50_235_136, 288_887_552),
    "ngram tables": (0, 31_406_985_216, 31_406_985_216, 134_978_871_296),
    "ngram proj": (0, 9_437_184, 9_437_184, 67_108_864),
    "total without mtp": (560_664_980_480, 68_562_465_024, 68_612_700_160, 1_638_616_807_424),
    "mtp": (392_593_408, 108_217_344, 111_805_568, 555_526_272),
}
PATTERNS = {
    "embed_tokens": r"embed_tokens\.",
    "lm_head": r"lm_head\.",
    "one attention": r"layers\.0\.self_attn\.0\.(?!indexer)",
    "attention": r"layers\.\d+\.self_attn\.[01]\.(?!indexer)",
    "norms": r"norm\.|layers\.\d+\.(input|post_attention)_layernorm\.",
    "one dense": r"layers\.0\.mlps\.0\.",
    "dense": r"layers\.\d+\.mlps\.[01]\.",
    "experts": r"layers\.\d+\.mlp\.experts\.",
    "router": r"layers\.\d+\.mlp\.router\.",
    "one indexer": r"layers\.0\.self_attn\.0\.indexer\.",
    "indexers": r"layers\.\d+\.self_attn\.[01]\.indexer\.",
    "ngram tables": r"ngram_embeddings\.table$",
    "ngram proj": r"ngram_embeddings\.proj$",
    "total without mtp": r"(?!mtp\.)",
    "mtp": r"mtp\.",
}
# Active parameters in billions at 0, 8 and 12 real experts a token; input embeddings are not counted.
ACTIVE = {
    "flash": ("18.694", "27.150", "31.377"),
    "flash-lite": ("2.921", "3.977", "4.506"),
    "flash-lite-sparse": ("2.971", "4.028", "4.556"),
    "longcat-2.0": ("33.350", "48.651", "56.301"),
}


@pytest.fixture(scope="module", params=PRESETS)
def preset(request: pytest.FixtureRequest) -> tuple[str, dict[str, tuple[int, ...]]]:
    """A preset's name and the shapes of every tensor of its model, built without memory."""
    with torch.device("meta"):
        model = Longcat(load_preset(request.param))
    return request.param, {name: tuple(value.shape) for name, value in model.state_dict().items()}


def numbers(shapes: dict[str, tuple[int, ...]], pattern: str) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if re.match(pattern, name))


def test_every_tensor_has_its_name_and_shape(preset: tuple[str, dict[str, tuple[int, ...]]]) -> None:
    name, shapes = preset
    assert shapes == reference.parameter_shapes(load_preset(name))


def test_parameter_table(preset: tuple[str, dict[str, tuple[int, ...]]]) -> None:
    name, shapes = preset
    config, column = load_preset(name), PRESETS.index(name)
    found = {part: numbers(shapes, pattern) for part, pattern in PATTERNS.items()}
    found["one expert"] = found["experts"] // (config.num_layers * config.n_routed_experts)
    assert found == {part: row[column] for part, row in COUNTS.items()}


NGRAM_IDS = {  # (position, table) -> row, for tokens 1 100 5000 EOS 77 V-1 42 43
    "flash-lite": {
        (2, 0): 2888583, (2, 1): 2888581, (2, 2): 2888579, (2, 3): 2888577, (2, 4): 7067759,
        (3, 0): 1048514, (3, 4): 10021402, (3, 8): 7506507, (6, 0): 4061594, (6, 8): 7864379, (6, 11): 7077953,
    },
    "longcat-2.0": {
        (2, 0): 16389000, (2, 1): 16389000, (2, 2): 16389000, (2, 3): 16389000, (2, 4): 2577820,
        (3, 0): 11832000, (3, 12): 8139696, (6, 0): 2514960, (6, 8): 9023366, (6, 15): 7244330,
        (7, 0): 6881323, (7, 15): 11995691,
    },
}  # fmt: skip
YARN = {
    "flash-lite": ((10, 18), 1.5135360, 0.10923005, {}),
    "flash-lite-sparse": (
        (8, 17),
        2.1866991,
        0.15781142,
        {
            0: 1.0, 1: 0.6493816, 2: 0.4216965, 3: 0.2738420, 8: 3.1622777e-2, 9: 1.8272570e-2, 16: 1.1851852e-4,
            17: 5.4115136e-6, 31: 1.2832721e-8,
        },
    ),
}  # fmt: skip
YARN["longcat-2.0"] = YARN["flash-lite-sparse"]


@pytest.mark.parametrize("name", NGRAM_IDS)
def test_reference_ngram_ids(name: str) -> None:
    config = load_preset(name)
    ids = reference.ngram_ids(config, [1, 100, 5000, 2, 77, config.vocab_size - 1, 42, 43])
    assert {key: ids[key[0]][key[1]] for key in NGRAM_IDS[name]} == NGRAM_IDS[name]
    assert ids[4] == [77] * config.ngram.tables, "the token after EOS sees nothing before it"


@pytest.mark.parametrize("name", YARN)
def test_reference_yarn(name: str) -> None:
    config = load_preset(name)
    bounds, m2, tau, frequencies = YARN[name]
    assert reference.yarn_bounds(config.rope, 64) == bounds
    assert reference.mscale(config.rope.factor, 1.0) ** 2 == pytest.approx(m2, rel=5e-8)
    assert reference.softmax_scale(config) == pytest.approx(tau, rel=5e-8)
    found = reference.inverse_frequencies(config.rope, 64)
    assert {i: found[i] for i in frequencies} == pytest.approx(frequencies, rel=2e-7)


@pytest.mark.parametrize("name", PRESETS)
def test_counting(name: str) -> None:
    """`count` reports the table's totals, and the published active parameters at 0, 8 and 12 real experts."""
    found, column = count_parameters(load_preset(name)), PRESETS.index(name)
    assert (found.total, found.mtp) == (COUNTS["total without mtp"][column], COUNTS["mtp"][column])
    assert found.expert == COUNTS["one expert"][column]
    parts = ("attention", "norms", "dense", "router", "indexers", "lm_head")
    assert found.base == sum(COUNTS[part][column] for part in parts)
    assert tuple(f"{found.active(real) / 1e9:.3f}" for real in (0, 8, 12)) == ACTIVE[name]


@pytest.mark.parametrize("name", NGRAM_IDS)
def test_ngram_ids(name: str) -> None:
    config = load_preset(name)
    tokens = [1, 100, 5000, 2, 77, config.vocab_size - 1, 42, 43]
    ids = ngram_ids(torch.tensor([tokens]), config.ngram, config.vocab_size, config.eos_token_id)[0].tolist()
    assert {key: ids[key[0]][key[1]] for key in NGRAM_IDS[name]} == NGRAM_IDS[name]
    assert ids == reference.ngram_ids(config, tokens)


@pytest.mark.parametrize("name", YARN)
def test_yarn(name: str) -> None:
    config = load_preset(name)
    bounds, m2, tau, frequencies = YARN[name]
    assert rope.yarn_range(config.rope, 64) == bounds
    assert rope.attention_factor(config.rope, 1.0) ** 2 == pytest.approx(m2, rel=5e-8)
    assert rope.softmax_scale(config.rope, config.qk_head_dim) == pytest.approx(tau, rel=5e-8)
    found = rope.inverse_frequencies(config.rope, 64).tolist()
    assert {i: found[i] for i in frequencies} == pytest.approx(frequencies, rel=2e-7)


def test_absent_mscales_scale_the_tables_instead_of_the_softmax() -> None:
    """mscale 1, mscale_all_dim 0, as where a config has neither key: cos and sin grow, the softmax scale does not."""
    config = replace(load_preset("longcat-2.0").rope, mscale_all_dim=0.0)
    cos, sin = rope.angles(config, 64, torch.tensor([0]), torch.float64)
    assert cos[0, 0].item() == pytest.approx(1.478749, rel=1e-6) and sin[0, 0].item() == 0.0
    assert rope.softmax_scale(config, 192) == pytest.approx(0.0721688, rel=1e-6)
