"""Parts of a model: every number of the whole is on the ranks that the layout names, and nowhere else."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from homegrown.config import load_preset
from homegrown.config.model import ModelConfig
from homegrown.model import Longcat, initialise
from homegrown.parallel.layout import Layout
from homegrown.parallel.parts import PartError, build_part, fill, global_shapes, load_shards, shards
from tests.train import tiny

LAYOUTS = {
    "tp": Layout(tp=2, embp=2, part_layers=(4,)),
    "ep": Layout(dp=2, ep=2, embp=1, part_layers=(4,)),
    "embp": Layout(dp=4, ep=2, embp=4, part_layers=(4,)),
    "pp": Layout(pp=2, part_layers=(1, 3)),
    "parts": Layout(pp=2, parts=2, part_layers=(1, 1, 1, 1)),
    "everything": Layout(pp=2, dp=2, cp=1, tp=2, ep=2, embp=4, parts=2, part_layers=(1, 1, 1, 1)),
}


def parts(layout: Layout, rank: int, config: ModelConfig, dtype: torch.dtype = torch.float32) -> list[Longcat]:
    built = [build_part(config, part, layout, rank).cast(dtype) for part in layout.parts_of(rank)]
    return [part.to_empty(device="cpu") for part in built]


def assembled(layout: Layout, models: dict[int, list[Longcat]]) -> dict[str, torch.Tensor]:
    """Global tensors from all ranks' parts; fails where ranks disagree or a number is nobody's."""
    whole: dict[str, torch.Tensor] = {}
    covered: dict[str, torch.Tensor] = {}
    for rank, own in models.items():
        for model in own:
            for name, shard in shards(model, layout, rank):
                if name not in whole:
                    whole[name] = torch.empty(shard.shape, dtype=model.get_parameter(name).dtype)
                    covered[name] = torch.zeros(shard.shape, dtype=torch.bool)
                place = whole[name].narrow(shard.dim, shard.start, shard.stop - shard.start)
                seen = covered[name].narrow(shard.dim, shard.start, shard.stop - shard.start)
                local = model.get_parameter(name).detach()
                assert torch.equal(place[seen], local[seen]), f"{name}: ranks disagree"
                place.copy_(local)
                seen.fill_(True)
    assert all(bool(seen.all()) for seen in covered.values())
    return whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LAYOUTS)
def test_initial_weights_are_those_of_the_whole_model(name, dtype, monkeypatch):
    monkeypatch.setattr("homegrown.config.blocks.BLOCK_NUMBERS", 1000)  # several blocks, as in large models
    layout, config = LAYOUTS[name], tiny.model_config(num_layers=4)
    reference = Longcat(config)
    reference.init_weights(7)
    expected = dict(reference.cast(dtype).named_parameters())
    models = {rank: parts(layout, rank, config, dtype) for rank in range(layout.world)}
    for rank, own in models.items():
        for model in own:
            for parameter in model.parameters():
                parameter.data.fill_(torch.nan)
            fill(model, layout, rank, 7)
            assert not any(buffer.any() for buffer in model.buffers())
    found = assembled(layout, models)
    assert found.keys() == expected.keys()
    for parameter, value in expected.items():
        assert found[parameter].dtype == value.dtype
        assert torch.equal(found[parameter], value), parameter


@pytest.mark.parametrize("name", LAYOUTS)
def test_given_tensors_are_shared_out(name):
    layout, config = LAYOUTS[name], tiny.model_config(num_layers=4)
    reference = Longcat(config)
    reference.init_weights(3)
    for index, router in enumerate(reference.routers()):
        router.e_score_correction_bias.fill_(index)
    models = {rank: parts(layout, rank, config) for rank in range(layout.world)}
    for rank, own in models.items():
        for model in own:
            load_shards(model, layout, rank, reference.state_dict())
            for number, layer in model.layers.items():
                assert layer.mlp.router.e_score_correction_bias.unique().item() == int(number)
    found = assembled(layout, models)
    assert all(torch.equal(found[name], value) for name, value in reference.named_parameters())


def test_ranks_hold_no_more_than_their_share():
    layout, config = LAYOUTS["everything"], tiny.model_config(num_layers=4)
    held: dict[str, int] = defaultdict(int)
    for rank in range(layout.world):
        for model in parts(layout, rank, config):
            for name, parameter in model.named_parameters():
                held[name] += parameter.numel()
    for name, shape in global_shapes(config).items():
        copies = {"tp": 2, "ep": 2, "embp": 1}.get(layout.axis(name), layout.tokens)
        ends = 2 if name == "embed_tokens.weight" else 1
        assert held[name] == copies * ends * torch.Size(shape).numel(), name


def test_what_is_elsewhere_is_absent():
    layout, config = LAYOUTS["parts"], tiny.model_config(num_layers=4)
    first, third = (build_part(config, part, layout, 0) for part in layout.parts_of(0))
    second, last = (build_part(config, part, layout, 1) for part in layout.parts_of(1))
    assert [list(model.layers) for model in (first, second, third, last)] == [["0"], ["1"], ["2"], ["3"]]
    names = ("embed_tokens", "ngram_embeddings", "norm", "lm_head", "mtp")
    held = [[name for name in names if getattr(model, name) is not None] for model in (first, second, third, last)]
    assert held == [["embed_tokens", "ngram_embeddings"], [], [], ["embed_tokens", "norm", "lm_head", "mtp"]]
    assert all(tensor.is_meta for model in (first, last) for tensor in model.state_dict().values())
    with pytest.raises(PartError, match="part 1 lives on stage 1"):
        build_part(config, layout.all_parts[1], layout, 0)


def test_tensors_that_do_not_fit_are_named():
    layout, config = LAYOUTS["tp"], tiny.model_config(num_layers=4)
    model = parts(layout, 0, config)[0]
    tensors = {name: torch.zeros(shape) for name, shape in global_shapes(config).items()}
    with pytest.raises(PartError, match=r"layers\.0\.mlp\.router\.e_score_correction_bias is missing"):
        load_shards(model, layout, 0, tensors)
    tensors["lm_head.weight"] = torch.zeros(3, 32)
    with pytest.raises(PartError, match=r"lm_head\.weight has shape \[3, 32\], not \[304, 32\]"):
        load_shards(model, layout, 0, tensors)


def test_blocks_are_drawn_one_by_one(monkeypatch):
    """Nobody draws what others hold: at most the blocks that reach into a rank's rows."""
    drawn: dict[str, int] = defaultdict(int)
    normal = initialise._normal

    def counting(shape: tuple[int, ...], deviation: float, key: str) -> torch.Tensor:
        drawn[key.split("/")[1]] += torch.Size(shape).numel()
        return normal(shape, deviation, key)

    monkeypatch.setattr(initialise, "_normal", counting)
    layout, config = LAYOUTS["embp"], tiny.model_config(num_layers=4)
    (model,) = parts(layout, 3, config)
    fill(model, layout, 3, 0)
    for name in ("ngram_embeddings.table", "layers.2.mlp.experts.gate_up_proj", "layers.0.mlp.experts.down_proj"):
        assert drawn[name] == model.get_parameter(name).numel() < torch.Size(global_shapes(config)[name]).numel()


def test_a_part_of_the_published_model():
    """LongCat-2.0 on 49152 ranks: built on the meta device, with this rank's experts, rows and heads."""
    config = load_preset("longcat-2.0")
    layout = Layout(pp=2, dp=12288, tp=2, ep=256, embp=1024, part_layers=(19, 19))
    model = build_part(config, layout.parts_of(1)[0], layout, 1)
    assert list(model.layers) == [str(number) for number in range(19)]
    assert model.layers["18"].mlp.experts.down_proj.shape == (3, config.hidden_size, config.expert_ffn_hidden_size)
    assert model.layers["0"].self_attn[1].o_proj.weight.shape == (8192, config.num_attention_heads * 128 // 2)
    rows = global_shapes(config)["ngram_embeddings.table"][0]
    assert abs(model.ngram_embeddings.table.shape[0] - rows / 1024) < rows / 4096
