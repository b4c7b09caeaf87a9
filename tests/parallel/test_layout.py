"""Layouts are data: every statement about who holds what can be checked without a process."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch

from homegrown.config import ConfigError, DataConfig, ModelConfig, ParallelConfig, load_preset
from homegrown.model import Longcat
from homegrown.parallel.layout import KINDS, Layout, row_blocks, settle
from tests.train import tiny

DATA = DataConfig(path=Path("unused"), seq_len=32, global_batch=192, micro_batch=1)
LAYOUTS = {
    "one": (ParallelConfig(), 1),
    "data": (ParallelConfig(), 4),
    "tensor": (ParallelConfig(tp=2), 4),
    "context and experts": (ParallelConfig(cp=2, ep=2), 4),
    "pipeline": (ParallelConfig(pp=2, ep=2), 4),
    "interleaved": (ParallelConfig(pp=2, parts=2), 2),
    "everything": (ParallelConfig(pp=2, cp=2, tp=2, ep=2, embp=4), 16),
    "pods": (ParallelConfig(pp=2, ep=6, pod=2), 24),
}


def model_config() -> ModelConfig:
    return tiny.model_config(num_layers=4)


def made(name: str) -> Layout:
    config, world = LAYOUTS[name]
    return settle(config, world, model_config(), DATA)


@pytest.mark.parametrize("name", LAYOUTS)
def test_places_are_ranks(name):
    layout = made(name)
    assert [layout.rank(layout.place(rank)) for rank in range(layout.world)] == list(range(layout.world))
    places = [layout.place(rank) for rank in range(layout.world)]
    assert places == sorted(places), "tensor parallelism is innermost, the pipeline outermost"


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_groups_part_the_world(name, kind):
    """Everybody is in one group of each kind, and all members of a group agree on it."""
    layout = made(name)
    groups = [layout.members(kind, rank) for rank in range(layout.world)]
    for rank, ranks in enumerate(groups):
        assert rank in ranks
        assert list(ranks) == sorted(set(ranks))
        assert all(groups[member] == ranks for member in ranks)


def test_sizes_of_groups():
    layout = made("everything")
    sizes = {kind: len(layout.members(kind, 5)) for kind in KINDS}
    assert sizes == {
        "world": 16, "tp": 2, "cp": 2, "sequence": 4, "data": 2, "tokens": 8, "ep": 2, "ep_inner": 2, "ep_outer": 1,
        "expert_replicas": 4, "embp": 4, "row_replicas": 2, "pp": 2, "words": 16,
    }  # fmt: skip


def test_pods_part_the_experts():
    layout = made("pods")
    assert layout.members("ep", 21) == (18, 19, 20, 21, 22, 23)
    assert layout.members("ep_inner", 21) == (20, 21)
    assert layout.members("ep_outer", 21) == (19, 21, 23)
    roomy = dataclasses.replace(layout, pod=12)
    assert roomy.members("ep_inner", 21) == roomy.members("ep", 21)
    assert roomy.members("ep_outer", 21) == (21,)


@pytest.mark.parametrize("name", LAYOUTS)
def test_shards_cover_every_parameter(name):
    """Each number of each parameter is held by as many ranks as the layout says, and by whole groups."""
    layout, model = made(name), model_config()
    with torch.device("meta"):
        whole = Longcat(model)
    for parameter, tensor in whole.named_parameters():
        held, dim = Counter(), 0
        for rank in range(layout.world):
            shard = layout.shard(parameter, tuple(tensor.shape), rank, model)
            if shard is not None:
                assert shard.local_shape[shard.dim] == shard.stop - shard.start > 0
                held.update(range(shard.start, shard.stop))
                dim = shard.dim
        axis = layout.axis(parameter)
        stages = 2 if layout.pp > 1 and parameter == "embed_tokens.weight" else 1
        copies = stages * layout.tokens // {"": 1, "tp": layout.tp, "ep": layout.ep, "embp": layout.embp}[axis]
        assert len(held) == tensor.shape[dim]
        assert set(held.values()) == {copies}, parameter


def test_parts_follow_one_another_around_the_stages():
    layout = made("interleaved")
    assert [part.layers for part in layout.all_parts] == [range(1), range(1, 2), range(2, 3), range(3, 4)]
    assert [[part.number for part in layout.parts_of(rank)] for rank in range(2)] == [[0, 2], [1, 3]]
    assert [(part.first, part.last) for part in layout.all_parts] == [
        (True, False), (False, False), (False, False), (False, True),
    ]  # fmt: skip


def test_row_blocks():
    assert row_blocks(10, 4) == [0, 10]
    assert row_blocks(10, 4, least=64) == list(range(11))
    borders = row_blocks(10_000_019, 768, least=64)
    assert borders[0] == 0 and borders[-1] == 10_000_019
    sizes = [high - low for low, high in itertools.pairwise(borders)]
    assert max(sizes) - min(sizes) <= 1 and len(sizes) == -(-10_000_019 * 768 // (1 << 22))


def test_the_real_model_on_49152_ranks():
    model = load_preset("longcat-2.0")
    data = DataConfig(path=Path("unused"), seq_len=8192, global_batch=12288, micro_batch=1)
    config = ParallelConfig(pp=12, cp=1, tp=4, ep=128)
    layout = settle(config, 49152, model, data)
    assert layout.describe().startswith("49152 ranks = pp 12 x dp 1024 x cp 1 x tp 4, ep 128")
    assert sum(layout.part_layers) == model.num_layers
    with torch.device("meta"):
        experts = Longcat(dataclasses.replace(model, num_layers=1)).layers["0"].mlp.experts.gate_up_proj
    shard = layout.shard("layers.0.mlp.experts.gate_up_proj", tuple(experts.shape), 0, model)
    assert shard.stop - shard.start == model.n_routed_experts // 128


@pytest.mark.parametrize(
    ("config", "world", "model", "data", "message"),
    [
        (ParallelConfig(tp=2), 3, {}, {}, "3 processes: must be a multiple of parallel.pp"),
        (ParallelConfig(dp=3), 4, {}, {}, "leave dp = 4"),
        (ParallelConfig(ep=3), 4, {}, {}, "parallel.ep = 3: must divide"),
        (ParallelConfig(ep=4), 4, {}, {}, "must divide model.n_routed_experts = 6"),
        (ParallelConfig(ep=2, pod=3), 6, {}, {}, "parallel.pod = 3: must divide parallel.ep = 2"),
        (ParallelConfig(embp=3), 4, {}, {}, "parallel.embp = 3"),
        (ParallelConfig(tp=4), 4, {}, {}, "must divide model.num_attention_heads = 2"),
        (ParallelConfig(pp=8), 8, {}, {}, "the model has only 4 layers"),
        (ParallelConfig(pp=2, layers=(1, 2)), 2, {}, {}, "must name 2 parts"),
        (ParallelConfig(), 4, {}, {"global_batch": 6, "micro_batch": 1}, "data.global_batch = 6"),
        (ParallelConfig(pp=2, parts=2), 2, {}, {"global_batch": 3, "micro_batch": 1}, "interleaved pipeline"),
    ],
)
def test_refusals(config, world, model, data, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        settle(config, world, tiny.model_config(num_layers=4, **model), dataclasses.replace(DATA, **data))


def test_a_part_begins_with_an_owner():
    model = tiny.model_config(num_layers=4, sparse=dataclasses.replace(tiny.model_config().sparse, share=4))
    assert settle(ParallelConfig(pp=2), 2, model, DATA).part_layers == (2, 2)
    with pytest.raises(ConfigError, match="reuses a selection"):
        settle(ParallelConfig(pp=2, layers=(1, 3)), 2, model, DATA)
    with pytest.raises(ConfigError, match="a multiple of 2 layers"):
        settle(ParallelConfig(pp=4), 4, model, DATA)


def test_interleaving_needs_a_pipeline():
    with pytest.raises(ConfigError, match="interleaving needs"):
        ParallelConfig(parts=2)
