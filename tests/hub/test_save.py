"""Writing: what was read comes back byte for byte; what fails leaves nothing."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

import homegrown
from homegrown.config import build, to_table
from homegrown.config.model import ModelConfig
from homegrown.hub import HubError, HubWarning, convert, parse_config, parse_size
from homegrown.hub.writer import Entry, plan
from homegrown.model import Longcat

from . import tiny

SCHEMES = ["flash", "lite", "longcat"]


def resaved(source, out, **options):
    """Load and save; then the streamed conversion, which must give the very same files."""
    model, tokenizer = homegrown.load(source, keep_unused=options.pop("keep_unused", False))
    homegrown.save(model, tokenizer, out, **options)
    convert(source, out.with_name("streamed"), keep_unused=model.config.mtp.keep_unused, **options)
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert {file.name: file.read_bytes() for file in out.with_name("streamed").iterdir()} == files
    return tiny.stored(out)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_bytes_come_back(tmp_path, scheme, shards):
    source = tiny.tiny(tmp_path / "in", scheme, shards)
    assert tiny.same_bytes(resaved(source, tmp_path / "out"), tiny.weights(scheme))
    config = parse_config(json.loads((source / "config.json").read_text()), "in")
    assert parse_config(json.loads((tmp_path / "out/config.json").read_text()), "out") == config


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_dtype_comes_back(tmp_path, scheme):
    tensors = tiny.weights(scheme)
    kinds = [torch.float32, torch.bfloat16, torch.float16]
    mixed = {name: tensor.to(kinds[i % 3]) for i, (name, tensor) in enumerate(tensors.items())}
    source = tiny.write(tmp_path / "in", tiny.CONFIGS[scheme], mixed)
    assert tiny.same_bytes(resaved(source, tmp_path / "out"), mixed)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("model."),
        lambda name: name.replace("model.oe_", "oe_"),
        lambda name: name.replace("mtp.norm", "mtp.layers.0.norm"),
    ],
)
def test_names_come_back(tmp_path, rename):
    tensors = {rename(name): tensor for name, tensor in tiny.weights("longcat").items()}
    source = tiny.write(tmp_path / "in", tiny.CONFIGS["longcat"], tensors)
    assert tiny.same_bytes(resaved(source, tmp_path / "out"), tensors)


@pytest.mark.parametrize("scheme", ["longcat", "lite"])
def test_unused_draft_tensors_come_back_when_kept(tmp_path, scheme):
    tensors = tiny.weights(scheme) | tiny.draft_extras(scheme)
    source = tiny.write(tmp_path / "in", tiny.CONFIGS[scheme], tensors)
    assert tiny.same_bytes(resaved(source, tmp_path / "kept", keep_unused=True), tensors)
    model, _ = homegrown.load(tmp_path / "kept")
    assert model.config.mtp.keep_unused
    homegrown.save(model, None, tmp_path / "again")
    assert tiny.same_bytes(tiny.stored(tmp_path / "again"), tensors)
    plain, _ = homegrown.load(source)
    homegrown.save(plain, None, tmp_path / "dropped")
    assert tiny.same_bytes(tiny.stored(tmp_path / "dropped"), tiny.weights(scheme))


@pytest.mark.parametrize(("scheme", "layout"), [("lite", "longcat"), ("longcat", "lite"), ("flash", "longcat")])
def test_between_layouts_and_back(tmp_path, scheme, layout):
    there = resaved(tiny.tiny(tmp_path / "in", scheme), tmp_path / "a" / "there", layout=layout)
    assert scheme == "flash" or there.keys() != tiny.weights(scheme).keys()
    back = resaved(tmp_path / "a" / "there", tmp_path / "b" / "back", layout=scheme)
    assert tiny.same_bytes(back, tiny.weights(scheme))
    first, last = (json.loads((tmp_path / at / "config.json").read_text()) for at in ("in", "b/back"))
    assert parse_config(first, "in") == parse_config(last, "back")


def test_fused_experts_and_back(tmp_path):
    there = resaved(tiny.tiny(tmp_path / "in", "flash"), tmp_path / "a" / "there", layout="transformers")
    gate_up = there["model.layers.1.mlp.experts.gate_up_proj"]
    assert gate_up.shape == (tiny.E + tiny.Z, 2 * tiny.EFFN, tiny.H)
    assert not gate_up[tiny.E :].any()
    back = resaved(tmp_path / "a" / "there", tmp_path / "b" / "back", layout="flash")
    assert tiny.same_bytes(back, tiny.weights("flash"))
    same = resaved(tmp_path / "a" / "there", tmp_path / "c" / "same")
    assert tiny.same_bytes(same, there)


def test_shards_and_index(tmp_path):
    source = tiny.tiny(tmp_path / "in", "longcat")
    assert tiny.same_bytes(resaved(source, tmp_path / "out", shard_size=40_000), tiny.weights("longcat"))
    files = sorted(file.name for file in (tmp_path / "out").glob("*.safetensors"))
    assert files == [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    assert len(files) > 3
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in tiny.weights("longcat").values())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert name in opened.keys()  # noqa: SIM118, not a dict
    assert homegrown.load(tmp_path / "out")[0].config.sparse.topk == 8


def test_files_are_cut_in_order_and_no_larger_than_asked():
    def entry(size, dtype=torch.uint8):
        return Entry(f"{size}", dtype, (size // dtype.itemsize,), lambda start, out: None)

    sizes = [[item.size for item in shard] for shard in plan(map(entry, (30, 30, 50, 120, 10, 90, 10)), 100)]
    assert sizes == [[30, 30], [50], [120], [10, 90], [10]]
    (shard,) = plan([entry(6, torch.bfloat16), entry(8, torch.float32)], 100)
    assert [item.dtype for item in shard] == [torch.float32, torch.bfloat16]


def test_dtype_asked_for(tmp_path):
    out = resaved(tiny.tiny(tmp_path / "in", "longcat"), tmp_path / "out", dtype=torch.float16)
    for name, tensor in tiny.weights("longcat").items():
        precise = name.endswith(("classifier.weight", "weights_proj.weight", "e_score_correction_bias"))
        assert torch.equal(out[name], tensor if precise else tensor.half()), name
        assert out[name].dtype == (torch.float32 if precise else torch.float16)
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "float16"


def test_correction_bias_keeps_its_stored_dtype(tmp_path):
    tensors = tiny.weights("flash")
    name = "model.layers.0.mlp.router.e_score_correction_bias"
    tensors[name] = tensors[name].bfloat16()
    source = tiny.write(tmp_path / "in", tiny.CONFIGS["flash"], tensors)
    assert tiny.same_bytes(resaved(source, tmp_path / "out"), tensors)


def small(**changes):
    table = to_table(parse_config(tiny.CONFIGS["longcat"], "tiny"))
    return build(ModelConfig, table | changes, "tiny")


def test_model_that_was_never_loaded(tmp_path):
    model = Longcat(small(scale_zero_experts=False))
    model.init_weights(0)
    homegrown.save(model, None, tmp_path / "out")
    again, tokenizer = homegrown.load(tmp_path / "out")
    assert tokenizer is None
    assert again.config == model.config
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    tokens = torch.arange(20).view(1, 20)
    assert torch.equal(model(tokens), again(tokens))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


def test_changed_weights_are_what_is_written(tmp_path):
    model, _ = homegrown.load(tiny.tiny(tmp_path / "in", "lite"))
    with torch.no_grad():
        model.norm.weight.fill_(3)
    homegrown.save(model, None, tmp_path / "out")
    assert (tiny.stored(tmp_path / "out")["model.norm.weight"] == 3).all()


def test_generation_config(tmp_path):
    source = tiny.tiny(tmp_path / "in", "flash")
    model, _ = homegrown.load(source)
    homegrown.save(model, None, tmp_path / "default")
    default = json.loads((tmp_path / "default/generation_config.json").read_text())
    assert (default["eos_token_id"], default["temperature"], default["top_p"]) == (2, 1.0, 0.95)
    (source / "generation_config.json").write_text('{"temperature": 0.7}')
    resaved(source, tmp_path / "out")
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == {"temperature": 0.7}
    homegrown.save(model, None, tmp_path / "given", generation={"top_p": 0.5})
    assert json.loads((tmp_path / "given/generation_config.json").read_text()) == {"top_p": 0.5}


def test_existing_directory_is_left_alone(tmp_path):
    model, _ = homegrown.load(tiny.tiny(tmp_path / "in", "flash"))
    (tmp_path / "out").mkdir()
    with pytest.raises(HubError, match="exists already"):
        homegrown.save(model, None, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_overwriting_replaces_a_model_whole(tmp_path):
    model, _ = homegrown.load(tiny.tiny(tmp_path / "in", "flash"))
    out = tiny.tiny(tmp_path / "out", "longcat", shards=3)
    homegrown.save(model, None, out, overwrite=True)
    assert tiny.same_bytes(tiny.stored(out), tiny.weights("flash"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "out"]
    with pytest.raises(OSError, match="No space"):
        homegrown.save(model, Broken(), out, overwrite=True)  # type: ignore[arg-type]
    assert tiny.same_bytes(tiny.stored(out), tiny.weights("flash"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "out"]


def test_overwriting_spares_what_is_no_model(tmp_path):
    model, _ = homegrown.load(tiny.tiny(tmp_path / "in", "flash"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("long")
    with pytest.raises(HubError, match="is not a model's directory"):
        homegrown.save(model, None, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis/chapter.txt").read_text() == "long"


class Broken:
    def save(self, path):
        raise OSError(28, "No space left on device")


def test_a_failure_leaves_nothing(tmp_path):
    model, _ = homegrown.load(tiny.tiny(tmp_path / "in", "flash"))
    with pytest.raises(OSError, match="No space"):
        homegrown.save(model, Broken(), tmp_path / "new/out")  # type: ignore[arg-type]
    assert list((tmp_path / "new").iterdir()) == []


def test_model_without_numbers(tmp_path):
    with torch.device("meta"):
        model = Longcat(small())
    with pytest.raises(HubError, match=r"embed_tokens\.weight is on the meta device"):
        homegrown.save(model, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layouts_that_cannot_hold_the_model(tmp_path):
    model, _ = homegrown.load(tiny.tiny(tmp_path / "in", "longcat"))
    for layout, message in (
        ("flash", "no names for n-gram tables"),
        ("nested", "no layout 'nested'; there are: flash"),
    ):
        with pytest.raises(HubError, match=message):
            homegrown.save(model, None, tmp_path / "out", layout=layout)
    sparse = Longcat(small(ngram=to_table(ModelConfig().ngram)))
    with pytest.raises(HubError, match="no sparse attention"):
        homegrown.save(sparse, None, tmp_path / "out", layout="transformers")
    assert not (tmp_path / "out").exists()


def test_what_transformers_will_compute_otherwise_is_told(tmp_path):
    source = tiny.write(tmp_path / "in", tiny.CONFIGS["flash"] | {"latent_norm_eps": 1e-5}, tiny.weights("flash"))
    model, _ = homegrown.load(source)
    with pytest.warns(HubWarning, match="latent_norm_eps = 1e-05, transformers always computes with 1e-06"):
        homegrown.save(model, None, tmp_path / "out", layout="transformers")


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("1000", 1000), ("7k", 7000)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-5GB", "lots", "5XB", "0.1"])
def test_no_sizes(text):
    with pytest.raises(HubError, match="is no size"):
        parse_size(text)
