"""Names and shapes of the whole family, from the config alone."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch

from homegrown.config import load_preset, preset_names
from homegrown.hub.layout import FLASH, LAYOUTS, LITE, LONGCAT, TRANSFORMERS, default_layout
from homegrown.hub.mapping import parts, tensors, unused
from homegrown.model import Longcat


@pytest.mark.parametrize("preset", preset_names())
def test_tensors_are_those_of_the_model(preset):
    config = load_preset(preset)
    with torch.device("meta"):
        state = Longcat(config).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == tensors(config)


def test_tensors_follow_every_switch_that_changes_shapes():
    config = load_preset("flash-lite-sparse")
    for changed in (
        replace(config, router_bias=True),
        replace(config, sparse=replace(config.sparse, k_norm="layer", share=4)),
        replace(config, sparse=replace(config.sparse, share=1)),
        replace(config, mtp=replace(config.mtp, indexer=False)),
        replace(config, mtp=replace(config.mtp, layers=0)),
        replace(config, zero_expert_num=0),
    ):
        with torch.device("meta"):
            state = Longcat(changed).state_dict()
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == tensors(changed)


@pytest.mark.parametrize("preset", preset_names())
def test_parts_cover_every_parameter_once(preset):
    config = load_preset(preset)
    end: dict[str, int] = {}
    for part in parts(config, default_layout(config)):
        assert part.start == end.get(part.ours, 0)
        assert part.count == prod(part.shape)
        end[part.ours] = part.start + part.count
    assert end == {name: prod(shape) for name, shape in tensors(config).items()}


def test_number_of_names_of_longcat_2():
    config = load_preset("longcat-2.0")
    names = {part.published for part in parts(config, LONGCAT)}
    carried = {name for name in unused(config, LONGCAT) if "ngram_embeddings" not in name}
    assert len(names | carried) == len(names) + len(carried) == 88_780


def test_number_of_names_of_flash_lite_sparse():
    config = load_preset("flash-lite-sparse")
    names = {part.published for part in parts(config, LONGCAT)}
    assert "model.mtp.embed_tokens.weight" in unused(config, LONGCAT)
    assert len(names) + 1 == 11_220


@pytest.mark.parametrize(
    ("preset", "shapes"),
    [
        (
            "flash",
            {
                "model.layers.27.self_attn.1.q_a_proj.weight": (1536, 6144),
                "model.layers.0.self_attn.0.q_b_proj.weight": (12288, 1536),
                "model.layers.0.self_attn.0.kv_a_proj_with_mqa.weight": (576, 6144),
                "model.layers.0.self_attn.0.kv_b_proj.weight": (16384, 512),
                "model.layers.0.self_attn.0.o_proj.weight": (6144, 8192),
                "model.layers.0.mlps.1.gate_proj.weight": (12288, 6144),
                "model.layers.0.mlp.experts.511.down_proj.weight": (6144, 2048),
                "model.layers.0.mlp.router.classifier.weight": (768, 6144),
                "model.mtp.layers.0.enorm.m.weight": (6144,),
                "model.mtp.layers.0.transformer_layer.mlp.up_proj.weight": (12288, 6144),
                "model.mtp.norm.weight": (6144,),
                "lm_head.weight": (131072, 6144),
            },
        ),
        (
            "flash-lite",
            {
                "model.ngram_embeddings.embedders.0.weight": (10_223_617, 256),
                "model.ngram_embeddings.embedders.11.weight": (10_223_639, 256),
                "model.ngram_embeddings.post_projs.11.weight": (3072, 256),
                "model.layers.13.self_attn.1.kv_b_proj.weight": (8192, 512),
                "model.layers.13.mlp.experts.255.gate_proj.weight": (1024, 3072),
                "model.layers.13.mlp.router.e_score_correction_bias": (384,),
            },
        ),
        (
            "longcat-2.0",
            {
                "model.oe_embed_tokens0.weight": (16_476_898, 512),
                "model.oe_embed_tokens15.weight": (16_476_928, 512),
                "model.oe_embed_proj15.weight": (8192, 512),
                "model.layers.37.self_attn.0.indexer.wq_b.weight": (4096, 1536),
                "model.layers.37.self_attn.0.indexer.wk.weight": (128, 8192),
                "model.layers.37.self_attn.0.indexer.k_norm.weight": (128,),
                "model.mtp.layers.0.self_attn.indexer.weights_proj.weight": (32, 8192),
                "model.mtp.layers.0.eh_proj.weight": (8192, 16384),
                "model.layers.37.mlp.router.classifier.weight": (896, 8192),
            },
        ),
    ],
)
def test_published_shapes(preset, shapes):
    config = load_preset(preset)
    found = {part.published: part.shape for part in parts(config, default_layout(config))}
    assert {name: found[name] for name in shapes} == shapes


def test_indexers_are_in_the_first_sublayer_only():
    names = {part.published for part in parts(load_preset("longcat-2.0"), LONGCAT)}
    assert sum(".indexer." in name for name in names) == (38 + 1) * 4
    assert not any(".self_attn.1.indexer." in name for name in names)


def test_transformers_fuses_experts_and_adds_zero_expert_rows():
    found = {part.published: part.shape for part in parts(load_preset("flash"), TRANSFORMERS)}
    assert found["model.layers.0.mlp.experts.gate_up_proj"] == (768, 4096, 6144)
    assert found["model.layers.0.mlp.experts.down_proj"] == (512, 6144, 2048)


def test_named_layouts_are_the_families():
    assert LAYOUTS["flash"] is FLASH
    assert [default_layout(load_preset(name)) for name in ("flash", "flash-lite", "flash-lite-sparse")] == [
        FLASH,
        LITE,
        LONGCAT,
    ]
