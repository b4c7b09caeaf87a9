"""Parity with transformers' LongCat-Flash: its weights in the published layout, and ours in its own."""

from __future__ import annotations

import json

import pytest
import torch

import homegrown

from . import tiny

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5  # float32 logits of order one; the two sum in different orders
TOKENS = torch.randint(3, tiny.V, (2, 40), generator=torch.Generator().manual_seed(1))


def reference(yarn):
    """A random LongcatFlashForCausalLM, and its tensors in the published layout, converted by hand."""
    rope = {"rope_type": "default", "rope_theta": 1e4}
    if yarn:
        rope = {"rope_type": "yarn", "rope_theta": 1e4} | tiny.YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}
    kept = {key: value for key, value in tiny.BASE.items() if key != "rope_theta"}
    config = transformers.LongcatFlashConfig(
        **kept, head_dim=tiny.DR, rope_parameters=rope, attn_implementation="eager"
    )
    torch.manual_seed(0)
    model = transformers.LongcatFlashForCausalLM(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.normal_(0, 0.2).add_(1.0 if "norm" in name else 0.0)
    published = {}
    for name, tensor in model.state_dict().items():
        stem = name.rpartition(".")[0]
        if name.endswith("gate_up_proj"):
            for e in range(tiny.E):
                published[f"{stem}.{e}.gate_proj.weight"] = tensor[e, : tiny.EFFN].clone()
                published[f"{stem}.{e}.up_proj.weight"] = tensor[e, tiny.EFFN :].clone()
        elif name.endswith("experts.down_proj"):
            for e in range(tiny.E):
                published[f"{stem}.{e}.down_proj.weight"] = tensor[e].clone()
        else:
            published[name] = tensor.clone()
    return model, published


def published_config(yarn):
    table = {key: value for key, value in tiny.CONFIGS["flash"].items() if key != "num_nextn_predict_layers"}
    scaling = tiny.YARN | {"type": "yarn", "mscale_all_dim": 1}
    return table | ({"rope_scaling": scaling} if yarn else {})


@pytest.mark.parametrize("yarn", [False, True])
def test_logits_of_the_published_layout(tmp_path, yarn):
    theirs, published = reference(yarn)
    ours, _ = homegrown.load(tiny.write(tmp_path, published_config(yarn), published))
    with torch.no_grad():
        expected, found = theirs(TOKENS).logits, ours(TOKENS)
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("yarn", [False, True])
def test_transformers_loads_what_we_save(tmp_path, yarn):
    theirs, published = reference(yarn)
    ours, _ = homegrown.load(tiny.write(tmp_path / "in", published_config(yarn), published))
    homegrown.save(ours, None, tmp_path / "out", layout="transformers")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert type(again).__name__ == "LongcatFlashForCausalLM"
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, theirs(TOKENS).logits)


@pytest.mark.parametrize("yarn", [False, True])
def test_we_load_what_transformers_saves(tmp_path, yarn):
    theirs, published = reference(yarn)
    theirs.save_pretrained(tmp_path)
    assert "num_hidden_layers" not in json.loads((tmp_path / "config.json").read_text())
    ours, _ = homegrown.load(tmp_path)
    held = tiny.in_model(published, ours.state_dict())
    assert all(torch.equal(held[name], tensor) for name, tensor in published.items())
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=TOLERANCE, rtol=TOLERANCE)


def test_transformers_reads_the_draft_heads_absence(tmp_path):
    """A published Flash checkpoint with a draft head, in transformers' layout: it loads all but the draft head."""
    ours, _ = homegrown.load(tiny.tiny(tmp_path / "in", "flash"), dtype=torch.float32)
    homegrown.save(ours, None, tmp_path / "out", layout="transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=TOLERANCE, rtol=TOLERANCE)
