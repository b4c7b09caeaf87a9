"""config.json in and out."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.config import ModelConfig, load_preset, preset_names
from homegrown.hub import LAYOUTS, HubError, HubWarning, default_layout, parse_config, render_config

from . import tiny

BF16 = torch.bfloat16
LONGCAT = tiny.CONFIGS["longcat"]


def parse(table):
    return parse_config(table, "dir/config.json")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("preset", preset_names())
def test_presets_come_back_exactly(preset, layout):
    config = load_preset(preset)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HubWarning)
        table = json.loads(json.dumps(render_config(config, LAYOUTS[layout], BF16)))
        assert parse(table) == config


@pytest.mark.parametrize("preset", ["flash", "flash-lite", "flash-lite-sparse", "longcat-2.0"])
def test_family_needs_no_key_of_ours_but_the_latent_epsilon(preset):
    config = load_preset(preset)
    assert "homegrown" not in render_config(config, default_layout(config), BF16)


@settings(max_examples=60, deadline=None)
@given(
    scale=st.booleans(),
    fusion=st.sampled_from(["mean", "residual"]),
    kind=st.sampled_from(["identity", "drop"]),
    eps=st.sampled_from([1e-5, 1e-6, 3e-6]),
    steps=st.integers(1, 4),
    mtp=st.integers(0, 1),
    use_ngram=st.booleans(),
    indexer=st.booleans(),
    interleaved=st.booleans(),
    preset=st.sampled_from(["flash", "flash-lite", "flash-lite-sparse", "longcat-2.0"]),
    layout=st.sampled_from(sorted(LAYOUTS)),
    all_dim=st.sampled_from([0.0, 1.0, 0.707]),
    pad=st.integers(0, 3),
)
def test_any_config_comes_back_exactly(
    scale, fusion, kind, eps, steps, mtp, use_ngram, indexer, interleaved, preset, layout, all_dim, pad
):
    base = load_preset(preset)
    config = replace(
        base,
        scale_zero_experts=scale,
        zero_expert_type=kind,
        latent_norm_eps=eps,
        pad_token_id=pad,
        ngram=replace(base.ngram, fusion=fusion),
        sparse=replace(base.sparse, rope_interleaved=interleaved),
        mtp=replace(base.mtp, layers=mtp, steps=steps, use_ngram=use_ngram, indexer=indexer),
        rope=replace(base.rope, mscale_all_dim=all_dim),
    )
    assert parse(json.loads(json.dumps(render_config(config, LAYOUTS[layout], BF16)))) == config


def test_own_key_holds_just_what_differs():
    config = load_preset("flash")
    config = replace(config, scale_zero_experts=False, ngram=replace(config.ngram, accumulate="sequential"))
    table = render_config(config, LAYOUTS["flash"], BF16)
    assert table["homegrown"] == {"scale_zero_experts": False, "ngram": {"accumulate": "sequential"}}


def test_published_longcat_2_keys():
    table = render_config(load_preset("longcat-2.0"), LAYOUTS["longcat"], BF16)
    expected = {
        "architectures": ["LongcatCausalLM"],
        "num_layers": 38,
        "oe_vocab_size_ratio": 100.567,
        "oe_neighbor_num": 5,
        "oe_split_num": 4,
        "index_topk": 2048,
        "index_n_heads": 32,
        "cli_factor": 2,
        "mtp_num_layers": 3,
        "mtp_replicate_modules": True,
        "mtp_disable_over_tokenizer": True,
        "torch_dtype": "bfloat16",
    }
    assert {key: table[key] for key in expected} == expected
    assert table["rope_scaling"]["type"] == "deepseek_yarn"


def test_aliases_and_which_wins():
    table = LONGCAT | {
        "intermediate_size": 999,
        "moe_intermediate_size": 999,
        "num_experts_per_tok": 1,
        "emb_neighbor_num": 2,
        "emb_split_num": 3,
        "ngram_vocab_size_ratio": 7,
    }
    config = parse(table)
    assert (config.ffn_hidden_size, config.expert_ffn_hidden_size, config.moe_topk) == (tiny.FFN, tiny.EFFN, 3)
    assert (config.ngram.ratio, config.ngram.order, config.ngram.splits) == (7.0, 2, 3)
    alias = {"ffn_hidden_size": "intermediate_size", "expert_ffn_hidden_size": "moe_intermediate_size"}
    alias |= {"moe_topk": "num_experts_per_tok"}
    renamed = {alias.get(key, key): value for key, value in LONGCAT.items()}
    assert parse(renamed) == parse(LONGCAT)


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({"num_hidden_layers": 2}, 2),
        ({"num_hidden_layers": 4}, 2),
        ({"num_layers": None, "num_hidden_layers": 4}, 2),
    ],
)
def test_layer_counts(change, layers):
    assert parse(tiny.CONFIGS["flash"] | change).num_layers == layers


def test_latent_epsilon_by_architecture_and_by_our_key():
    found = {scheme: parse(table).latent_norm_eps for scheme, table in tiny.CONFIGS.items()}
    assert found == {"flash": 1e-6, "lite": 1e-6, "longcat": 1e-5}
    assert parse(LONGCAT | {"latent_norm_eps": 2e-6}).latent_norm_eps == 2e-6


def test_sparse_is_told_by_index_topk_alone():
    assert parse(LONGCAT).sparse.topk == 8
    assert parse(LONGCAT | {"index_topk": 0, "attention_method": "LSA"}).sparse.topk == 0
    assert parse(LONGCAT).sparse.rope_interleaved
    assert not parse(LONGCAT | {"indexer_rope_interleave": False}).sparse.rope_interleaved


def test_draft_steps():
    one = {key: value for key, value in LONGCAT.items() if key != "mtp_replicate_modules"} | {"mtp_num_layers": 1}
    assert parse(one).mtp.steps == 3  # Flash-Lite-Sparse: one block on disk, three steps in the paper
    assert parse(one | {"mtp_replicate_modules": True}).mtp.steps == 1
    assert parse(tiny.CONFIGS["lite"]).mtp.steps == 1
    assert parse(tiny.CONFIGS["flash"] | {"num_nextn_predict_layers": 0}).mtp.layers == 0
    assert parse(LONGCAT | {"mtp_disable_over_tokenizer": False}).mtp.use_ngram


def test_rope_parameters_of_transformers_5():
    block = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 128}
    table = {key: value for key, value in tiny.CONFIGS["flash"].items() if key != "rope_theta"}
    table["rope_parameters"] = block | {"mscale": 0.7, "mscale_all_dim": 0.9}
    rope = parse(table).rope
    assert (rope.type, rope.theta, rope.mscale, rope.mscale_all_dim) == ("yarn", 5e5, 0.7, 0.9)
    table["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    assert parse(table).rope.type == "none"


def test_yarn_without_mscales_is_read_strictly_with_a_warning():
    block = {"type": "deepseek_yarn", "factor": 120, "original_max_position_embeddings": 8192}
    with pytest.warns(HubWarning, match="neither mscale nor mscale_all_dim"):
        rope = parse(LONGCAT | {"rope_scaling": block}).rope
    assert (rope.mscale, rope.mscale_all_dim) == (1.0, 0.0)


def without(key):
    return {name: value for name, value in LONGCAT.items() if name != key}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            LONGCAT | {"architectures": ["LlamaForCausalLM"]},
            "unknown architecture 'LlamaForCausalLM'; known are Longcat",
        ),
        (without("architectures"), "key 'architectures' is missing"),
        (without("hidden_size"), "key 'hidden_size' is missing"),
        (without("ffn_hidden_size"), "key 'ffn_hidden_size' \\(or 'intermediate_size'\\) is missing"),
        (without("oe_neighbor_num"), "key 'emb_neighbor_num' \\(or 'oe_neighbor_num'\\) is missing"),
        (without("index_n_heads"), "key 'index_n_heads' is missing"),
        (without("num_layers"), "key 'num_layers' is missing"),
        (without("rope_theta"), "key 'rope_theta' is missing"),
        (LONGCAT | {"num_layers": 38, "num_hidden_layers": 40}, "num_hidden_layers is 40, num_layers 38"),
        (LONGCAT | {"hidden_size": "wide"}, "hidden_size"),
        (LONGCAT | {"moe_topk": 99}, "model.moe_topk = 99"),
        (LONGCAT | {"attention_bias": True}, "attention_bias is True"),
        (LONGCAT | {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        (LONGCAT | {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (LONGCAT | {"text_vocab_size": 32}, "multimodal"),
        (LONGCAT | {"mtp_replicate_modules": False}, "several physical draft blocks"),
        (LONGCAT | {"rope_scaling": {"type": "linear", "factor": 2}}, "type 'linear'"),
        (LONGCAT | {"rope_scaling": {"type": "yarn", "factor": 2}}, "no 'original_max_position_embeddings'"),
        (LONGCAT | {"rope_scaling": tiny.YARN | {"type": "yarn"}}, "only one of mscale and mscale_all_dim"),
        (LONGCAT | {"homegrown": {"scale_zero_expert": False}}, "did you mean 'scale_zero_experts'"),
        (LONGCAT | {"homegrown": 3}, "key 'homegrown' must be an object"),
    ],
)
def test_one_sentence_for_what_is_wrong(table, message):
    with pytest.raises(HubError, match=message) as caught:
        parse(table)
    assert str(caught.value).startswith("dir/config.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("yarn", [False, True])
def test_transformers_reads_what_we_write(tmp_path, yarn):
    transformers = pytest.importorskip("transformers")
    config = replace(parse(tiny.CONFIGS["flash"]), qk_rope_head_dim=8)
    if yarn:
        config = replace(config, rope=replace(config.rope, type="yarn", factor=4.0, original_max_position=128))
    (tmp_path / "config.json").write_text(json.dumps(render_config(config, LAYOUTS["transformers"], BF16)))
    read = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(read).__name__ == "LongcatFlashConfig"
    assert (read.num_layers, read.num_hidden_layers, read.head_dim) == (2, 4, 8)
    assert read.dtype == BF16
    assert read.rope_parameters["rope_theta"] == 1e4
    assert read.rope_parameters["rope_type"] == ("yarn" if yarn else "default")
    for name in ("hidden_size", "moe_topk", "n_routed_experts", "zero_expert_num", "expert_ffn_hidden_size"):
        assert getattr(read, name) == getattr(config, name)


def test_default_model_config_comes_back():
    assert parse(render_config(ModelConfig(), LAYOUTS["flash"], BF16)) == ModelConfig()
