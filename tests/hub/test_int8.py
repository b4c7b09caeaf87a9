"""Rounding to eight bits as weights are read: the same as rounding a loaded model, in half the memory."""

from __future__ import annotations

import pytest
import torch

import homegrown
from homegrown.hub import HubError, convert
from homegrown.hub import int8 as hub_int8
from homegrown.model.int8 import Int8Linear, Int8Weight, eight_bit_names, footprints, is_quantised, quantise

from . import tiny
from .test_memory import MIB, RATIO, growth, large, needs_status

__all__ = ["large"]
SCHEMES = ["flash", "lite", "longcat"]


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_the_loaded_model_rounded(tmp_path, scheme, dtype, monkeypatch):
    monkeypatch.setattr(hub_int8, "PIECE", 500)  # several pieces even of tensors this small
    folder = tiny.tiny(tmp_path, scheme)
    model, _ = homegrown.hub.load(folder, dtype=dtype, int8=True)
    wide, _ = homegrown.load(folder)
    same(model, quantise(wide, torch.bfloat16 if dtype is None else dtype))
    with torch.inference_mode():
        assert model(torch.arange(24).view(2, 12)).isfinite().all()


def test_stacked_experts_of_another_layout(tmp_path):
    convert(tiny.tiny(tmp_path / "in", "flash"), tmp_path / "fused", layout="transformers")
    same(
        homegrown.hub.load(tmp_path / "fused", int8=True)[0],
        homegrown.hub.load(tmp_path / "in", int8=True)[0],
    )


def test_what_is_rounded_and_what_is_not(tmp_path):
    model, _ = homegrown.hub.load(tiny.tiny(tmp_path, "longcat"), int8=True)
    wide, _ = homegrown.load(tmp_path)
    rounded, names = {*eight_bit_names(model)}, {*wide.state_dict()}
    assert rounded < names
    for name in names - rounded:
        ours, theirs = model.state_dict()[name], wide.state_dict()[name]
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), name
        assert ours.ndim == 1 or any(
            part in name for part in ("kv_b_proj", "router", "indexer.wk", "weights_proj", "ngram_embeddings.proj")
        )
    assert {"lm_head.weight", "embed_tokens.weight", "ngram_embeddings.table"} < rounded
    assert {f"layers.1.mlp.experts.{part}" for part in ("gate_up_proj", "down_proj")} < rounded
    sizes = footprints(model)
    assert sizes.keys() == names
    assert sum(size.numbers for size in sizes.values()) == sum(t.numel() for t in wide.state_dict().values())
    held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert sum(size.bytes for size in sizes.values()) == held
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("suffix", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("flat", [False, True])
def test_published_integers_stay(tmp_path, suffix, flat):
    files = dict(tiny.weights("flash"))
    kept = {}
    for name, tensor in tiny.weights("flash").items():
        if ".experts." in name or "q_b_proj" in name:
            scale = tensor.float().abs().amax(1, keepdim=True) / 100  # not how we would round
            kept[name] = (tensor.float() / scale).round().to(torch.int8), scale.flatten()
            files[name] = kept[name][0]
            files[name.removesuffix("weight") + suffix] = scale.flatten() if flat else scale
    model, _ = homegrown.hub.load(tiny.write(tmp_path, tiny.CONFIGS["flash"], files), dtype=torch.float32, int8=True)
    state = model.state_dict()
    for which in ("values", "scale"):
        plain = {name.removesuffix(f".{which}"): tensor for name, tensor in state.items() if name.endswith(which)}
        held = tiny.in_model(kept, plain)
        for name, stored in kept.items():
            assert torch.equal(held[name], stored[which == "scale"]), name


def test_fp8_is_rounded_anew(tmp_path):
    files, meant = dict(tiny.weights("flash")), dict(tiny.weights("flash"))
    name = "model.layers.0.mlps.1.up_proj.weight"
    files[name] = (meant[name].float() * 100).to(torch.float8_e4m3fn)
    files[name + "_scale_inv"] = torch.full((1, 1), 0.01)
    meant[name] = files[name].float() * 0.01
    model, _ = homegrown.hub.load(tiny.write(tmp_path / "fp8", tiny.CONFIGS["flash"], files), int8=True)
    plain, _ = homegrown.hub.load(tiny.write(tmp_path / "plain", tiny.CONFIGS["flash"], meant), int8=True)
    same(model, plain)


def test_it_cannot_be_saved(tmp_path):
    model, _ = homegrown.hub.load(tiny.tiny(tmp_path / "in", "flash"), int8=True)
    assert is_quantised(model)
    with pytest.raises(HubError, match="rounded to eight bits"):
        homegrown.save(model, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_none_are_found(tmp_path):
    published = tiny.weights("flash")
    name = "model.layers.1.mlp.experts.2.down_proj.weight"
    published[name][3, 4] = float("nan")
    folder = tiny.write(tmp_path, tiny.CONFIGS["flash"], published)
    with pytest.raises(HubError, match=rf"model\.safetensors: tensor {name}.*not a finite number"):
        homegrown.hub.load(folder, int8=True)
    model, _ = homegrown.load(folder)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.experts\.down_proj: .*not a finite number"):
        quantise(model)


def test_a_model_moves_with_its_integers(tmp_path):
    model, _ = homegrown.hub.load(tiny.tiny(tmp_path, "flash"), int8=True)
    assert isinstance(model.lm_head, Int8Linear)
    assert all(tensor.is_meta for tensor in model.to("meta").state_dict().values())
    assert all(isinstance(model.get_submodule(name), Int8Weight) for name in eight_bit_names(model))


@needs_status
def test_memory_never_holds_more(large):
    """86 MB of bfloat16 tables become 43 MB of integers and 7 MB of scales."""
    numbers = sum(int(RATIO * tiny.V) + 2 * t + 1 for t in range(tiny.T)) * (tiny.H // tiny.T)
    size = numbers + numbers // (tiny.H // tiny.T) * 2
    assert size < 52 * MIB
    assert growth(f"model, _ = homegrown.hub.load({str(large)!r}, int8=True)") < size + 32 * MIB
