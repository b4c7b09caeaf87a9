"""Reading: all naming schemes, dtypes, quantised weights; every number checked against the file by hand."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

import homegrown
from homegrown.hub import HubError, HubWarning

from . import tiny

SCHEMES = ["flash", "lite", "longcat"]


def assert_loaded(model, published, dtype=None):
    held = tiny.in_model(published, model.state_dict())
    for name, tensor in published.items():
        assert torch.equal(held[name], tensor.to(dtype or held[name].dtype)), name


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme(tmp_path, scheme, shards):
    model, tokenizer = homegrown.load(tiny.tiny(tmp_path, scheme, shards))
    assert tokenizer is None
    assert_loaded(model, tiny.weights(scheme))
    state = model.state_dict()
    assert state["layers.0.mlp.router.classifier.weight"].dtype == torch.float32
    assert state["layers.1.mlp.router.e_score_correction_bias"].dtype == torch.float32
    assert state["layers.0.mlp.experts.gate_up_proj"].dtype == torch.bfloat16
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_another_dtype(tmp_path, scheme, dtype):
    model, _ = homegrown.load(tiny.tiny(tmp_path, scheme), device="cpu", dtype=dtype)
    for name, parameter in model.named_parameters():
        precise = name.endswith(("classifier.weight", "weights_proj.weight"))
        assert parameter.dtype == (torch.float32 if precise else dtype), name
    assert_loaded(model, tiny.weights(scheme))


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_loaded_model_runs(tmp_path, scheme, dtype):
    model, _ = homegrown.load(tiny.tiny(tmp_path, scheme), dtype=dtype)
    with torch.no_grad():
        logits = model(torch.arange(24).view(2, 12))
    assert logits.shape == (2, 12, tiny.V)
    assert logits.isfinite().all()


def test_ngram_names_without_prefix(tmp_path):
    published = tiny.weights("longcat")
    bare = {name.replace("model.oe_", "oe_"): tensor for name, tensor in published.items()}
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["longcat"], bare))
    assert_loaded(model, published)


def test_all_names_without_prefix(tmp_path):
    published = tiny.weights("longcat")
    bare = {name.removeprefix("model."): tensor for name, tensor in published.items()}
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["longcat"], bare))
    assert_loaded(model, published)


@pytest.mark.parametrize("scheme", ["lite", "longcat"])
def test_the_other_ngram_scheme_under_an_architecture(tmp_path, scheme):
    nested = {"oe_embed_tokens": "ngram_embeddings.embedders.", "oe_embed_proj": "ngram_embeddings.post_projs."}
    swap = nested if scheme == "longcat" else {new: old for old, new in nested.items()}
    published = tiny.weights(scheme)
    renamed = {}
    for name, tensor in published.items():
        stem = next((stem for stem in swap if stem in name), "")
        renamed[name.replace(stem, swap[stem]) if stem else name] = tensor
    assert len(renamed.keys() - published.keys()) == 2 * tiny.T
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS[scheme], renamed))
    assert_loaded(model, published)


def test_draft_norm_in_the_layer(tmp_path):
    published = tiny.weights("lite")
    moved = {name.replace("mtp.norm", "mtp.layers.0.norm"): tensor for name, tensor in published.items()}
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["lite"], moved))
    assert_loaded(model, published)


@pytest.mark.parametrize("shards", [1, 2])
def test_draft_head_in_an_auxiliary_file(tmp_path, shards):
    published = tiny.weights("lite")
    draft = {name: tensor for name, tensor in published.items() if ".mtp." in name}
    rest = {name: tensor for name, tensor in published.items() if ".mtp." not in name}
    tiny.write(tmp_path, tiny.CONFIGS["lite"], rest, shards)
    save_file(draft, tmp_path / "model-auxiliary.safetensors")
    model, _ = homegrown.load(tmp_path)
    assert_loaded(model, published)


def test_absent_draft_head_is_told(tmp_path):
    published = {name: tensor for name, tensor in tiny.weights("lite").items() if ".mtp." not in name}
    with pytest.warns(HubWarning, match="declares a draft head"):
        model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["lite"], published))
    assert model.mtp is None
    assert_loaded(model, published)


def fused(published, down_rows):
    """Experts as transformers 5 holds them: zero experts have rows in gate_up_proj, perhaps in down_proj."""
    out = {name: tensor for name, tensor in published.items() if ".experts." not in name}
    for layer in range(tiny.L):
        at = f"model.layers.{layer}.mlp.experts"
        gate_up = torch.full((tiny.E + tiny.Z, 2 * tiny.EFFN, tiny.H), 7.0).bfloat16()
        down = torch.full((down_rows, tiny.H, tiny.EFFN), 7.0).bfloat16()
        for e in range(tiny.E):
            gate_up[e, : tiny.EFFN] = published[f"{at}.{e}.gate_proj.weight"]
            gate_up[e, tiny.EFFN :] = published[f"{at}.{e}.up_proj.weight"]
            down[e] = published[f"{at}.{e}.down_proj.weight"]
        out |= {f"{at}.gate_up_proj": gate_up, f"{at}.down_proj": down}
    return out


@pytest.mark.parametrize("down_rows", [tiny.E, tiny.E + tiny.Z])
def test_fused_experts(tmp_path, down_rows):
    published = tiny.weights("flash")
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["flash"], fused(published, down_rows)))
    assert_loaded(model, published)


def test_gate_and_up_of_zero_experts_as_transformers_saves_them(tmp_path):
    published = tiny.weights("flash")
    junk = {
        f"model.layers.{layer}.mlp.experts.{e}.{name}.weight": torch.ones(tiny.EFFN, tiny.H).bfloat16()
        for layer in range(tiny.L)
        for e in range(tiny.E, tiny.E + tiny.Z)
        for name in ("gate_proj", "up_proj")
    }
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["flash"], published | junk))
    assert_loaded(model, published)


def test_padding_rows_of_ngram_tables_are_dropped(tmp_path):
    published = tiny.weights("longcat")
    padded = dict(published)
    for t in range(tiny.T):
        name = f"model.oe_embed_tokens{t}.weight"
        padded[name] = torch.cat((published[name], torch.ones(5 + t, tiny.H // tiny.T).bfloat16()))
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["longcat"], padded))
    assert_loaded(model, published)


def test_unused_draft_tensors_are_skipped(tmp_path):
    published = tiny.weights("longcat")
    model, _ = homegrown.load(
        tiny.write(tmp_path, tiny.CONFIGS["longcat"], published | tiny.draft_extras("longcat"), shards=2)
    )
    assert_loaded(model, published)
    assert not model.config.mtp.keep_unused


def quantise(weight, rows, columns):
    """FP8 e4m3 with a scale a block: the numbers and, by hand, what they stand for."""
    height, width = weight.shape
    scale = torch.empty(-(-height // rows), -(-width // columns))
    numbers = torch.empty(height, width, dtype=torch.float8_e4m3fn)
    meant = torch.empty(height, width)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            block = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
            scale[i, j] = weight[block].float().abs().max() / 448
            numbers[block] = (weight[block].float() / scale[i, j]).to(torch.float8_e4m3fn)
            meant[block] = numbers[block].float() * scale[i, j]
    return numbers, scale, meant


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("block", [None, (16, 10)])
def test_block_scaled_fp8(tmp_path, dtype, block):
    published = tiny.weights("longcat")
    eight = ("experts.", "mlps.", "q_b_proj", "o_proj", "eh_proj", "wq_b", "transformer_layer")
    files, meant = {}, {}
    for name, tensor in published.items():
        files[name] = meant[name] = tensor
        if any(word in name for word in eight):
            files[name], files[f"{name}_scale_inv"], meant[name] = quantise(tensor, *(block or (128, 128)))
    config = tiny.CONFIGS["longcat"] | {"quantization_config": {"quant_method": "fp8"}}
    if block:
        config["quantization_config"]["weight_block_size"] = list(block)
    model, _ = homegrown.load(tiny.write(tmp_path, config, files, shards=2), dtype=dtype)
    held = tiny.in_model(published, model.state_dict())
    for name, tensor in meant.items():
        if any(word in name for word in eight):
            assert held[name].dtype == (dtype or torch.bfloat16)
        # float32 product, rounded once: equal to the last bit
        assert torch.equal(held[name], tensor.to(held[name].dtype)), name


def test_fp8_blocks_beyond_128(tmp_path):
    """A matrix of several blocks with ragged edges, in pieces that begin in the middle of a row."""
    from homegrown.hub.checkpoint import Checkpoint
    from homegrown.hub.mapping import Part
    from homegrown.hub.weights import CheckpointWeights

    weight = torch.randn(300, 200)
    numbers, scale, meant = quantise(weight, 128, 128)
    save_file({"w.weight": numbers, "w.weight_scale_inv": scale}, tmp_path / "model.safetensors")
    weights = CheckpointWeights(
        Checkpoint(tmp_path), [Part("w.weight", (300, 200), "w", 0, 60_000)], frozenset(), (128, 128)
    )
    for start, count in ((0, 60_000), (130, 1), (25_555, 4_321), (59_999, 1)):
        out = torch.empty(count)
        weights.fill("w", start, out)
        assert torch.equal(out, meant.flatten()[start : start + count])


@pytest.mark.parametrize("suffix", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("flat", [False, True])
def test_int8_with_a_scale_a_row(tmp_path, suffix, flat):
    published = tiny.weights("flash")
    files, meant = dict(published), dict(published)
    for name, tensor in published.items():
        if ".experts." in name:
            scale = tensor.float().abs().amax(1, keepdim=True) / 127
            files[name] = (tensor.float() / scale).round().to(torch.int8)
            files[name.removesuffix("weight") + suffix] = scale.flatten() if flat else scale
            meant[name] = (files[name].float() * scale).bfloat16()
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["flash"], files))
    assert_loaded(model, meant)


def test_experts_of_mixed_dtypes_take_the_widest(tmp_path):
    published = tiny.weights("flash")
    name = "model.layers.0.mlp.experts.2.up_proj.weight"
    published[name] = torch.randn(tiny.EFFN, tiny.H)
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["flash"], published))
    assert model.state_dict()["layers.0.mlp.experts.gate_up_proj"].dtype == torch.float32
    assert model.state_dict()["layers.1.mlp.experts.gate_up_proj"].dtype == torch.bfloat16
    assert_loaded(model, published)


def test_correction_bias_is_float32_in_memory(tmp_path):
    published = tiny.weights("flash")
    name = "model.layers.0.mlp.router.e_score_correction_bias"
    published[name] = published[name].bfloat16()
    model, _ = homegrown.load(tiny.write(tmp_path, tiny.CONFIGS["flash"], published), dtype=torch.bfloat16)
    held = model.state_dict()["layers.0.mlp.router.e_score_correction_bias"]
    assert held.dtype == torch.float32
    assert torch.equal(held, published[name].float())


def test_tokenizer_comes_along(tmp_path):
    from homegrown.tokenizer import train_tokenizer

    trained = train_tokenizer(["a few words, again and again, a few words"] * 50, vocab_size=300)
    model, _ = homegrown.load(tiny.tiny(tmp_path / "in", "flash"))
    homegrown.save(model, trained, tmp_path / "out")
    _, tokenizer = homegrown.load(tmp_path / "out")
    assert tokenizer is not None
    assert tokenizer.encode("again, words") == trained.encode("again, words")


def test_text_path_and_missing_directory(tmp_path):
    folder = tiny.tiny(tmp_path / "m", "flash")
    assert homegrown.load(str(folder))[1] is None
    shutil.rmtree(folder)
    with pytest.raises(HubError, match="no such directory"):
        homegrown.load(str(folder))
