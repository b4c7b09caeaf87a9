"""`homegrown export` and `homegrown import`."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from homegrown.cli import export, import_
from homegrown.cli.main import Command, main

from . import tiny

COMMANDS = {
    "hub": [Command("export", export.__name__, export.SUMMARY), Command("import", import_.__name__, import_.SUMMARY)]
}


def homegrown(*argv):
    return main([str(word) for word in argv], COMMANDS)


def test_export_as_it_is(tmp_path, capsys):
    source = tiny.tiny(tmp_path / "in", "longcat", shards=3)
    assert homegrown("export", source, tmp_path / "out", "--shard-size", "40KB") == 0
    assert tiny.same_bytes(tiny.stored(tmp_path / "out"), tiny.weights("longcat"))
    assert (tmp_path / "out/model.safetensors.index.json").exists()
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out'}\n"


def test_export_to_another_layout_and_dtype(tmp_path):
    source = tiny.tiny(tmp_path / "in", "longcat")
    options = ["--layout", "lite", "--dtype", "float32"]
    assert homegrown("export", source, tmp_path / "out", *options) == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["LongcatFlashNgramForCausalLM"]
    assert config["ngram_vocab_size_ratio"] == 2.5
    found = tiny.stored(tmp_path / "out")
    before = tiny.weights("longcat")["model.oe_embed_tokens3.weight"]
    assert torch.equal(found["model.ngram_embeddings.embedders.3.weight"], before.float())


def test_import_puts_everything_in_standard_form(tmp_path):
    published = tiny.weights("lite")
    odd = {name.replace("mtp.norm", "mtp.layers.0.norm"): tensor for name, tensor in published.items()}
    table = "model.ngram_embeddings.embedders.1.weight"
    odd[table] = torch.cat((published[table], torch.zeros(6, tiny.H // tiny.T).bfloat16()))
    head = "lm_head.weight"
    odd[head] = published[head].to(torch.float8_e4m3fn)
    odd[f"{head}_scale_inv"] = torch.full((1, 1), 2.0)
    draft = {name: odd.pop(name) for name in list(odd) if ".mtp." in name}
    source = tiny.write(tmp_path / "in", tiny.CONFIGS["lite"], odd, shards=2)
    save_file(draft, source / "model-auxiliary.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "notes.txt"):
        (source / name).write_text(name)

    assert homegrown("import", source, tmp_path / "out") == 0
    expected = published | {head: (published[head].to(torch.float8_e4m3fn).float() * 2).bfloat16()}
    assert tiny.same_bytes(tiny.stored(tmp_path / "out"), expected)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_keep_unused(tmp_path):
    tensors = tiny.weights("longcat") | tiny.draft_extras("longcat")
    source = tiny.write(tmp_path / "in", tiny.CONFIGS["longcat"], tensors)
    assert homegrown("import", source, tmp_path / "out", "--keep-unused") == 0
    assert tiny.same_bytes(tiny.stored(tmp_path / "out"), tensors)


@pytest.mark.parametrize("command", ["export", "import"])
def test_an_error_is_one_sentence_and_leaves_nothing(tmp_path, capsys, command):
    source = tiny.tiny(tmp_path / "in", "flash")
    (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-9])
    assert homegrown(command, source, tmp_path / "new/out") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"homegrown {command}: {source}/model.safetensors: truncated: tensor ")
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_bad_size(tmp_path, capsys):
    source = tiny.tiny(tmp_path / "in", "flash")
    assert homegrown("export", source, tmp_path / "out", "--shard-size", "big") == 1
    assert "'big' is no size" in capsys.readouterr().err


def test_a_warning_is_shown(tmp_path, capsys):
    tensors = {name: tensor for name, tensor in tiny.weights("lite").items() if ".mtp." not in name}
    source = tiny.write(tmp_path / "in[red]", tiny.CONFIGS["lite"], tensors)
    assert homegrown("import", source, tmp_path / "out") == 0
    assert f"warning: {source}: config.json declares a draft head" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "import"])
def test_help(capsys, command):
    assert homegrown(command, "--help") == 0
    out = capsys.readouterr().out
    assert "SRC" in out
    assert "--shard-size SIZE" in out
