"""What is wrong with a directory is one sentence that names file and tensor."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

import homegrown
from homegrown.hub import HubError

from . import tiny

NORM = "model.norm.weight"
FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def refuses(folder, *words):
    with pytest.raises(HubError) as caught:
        homegrown.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def altered(folder, change, scheme="flash", shards=1):
    tensors = tiny.weights(scheme)
    change(tensors)
    return tiny.write(folder, tiny.CONFIGS[scheme], tensors, shards)


def test_missing_tensor(tmp_path):
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    refuses(altered(tmp_path, lambda t: t.pop(name)), str(tmp_path), name, f"[{tiny.EFFN}, {tiny.H}]", "missing")


def test_extra_tensor(tmp_path):
    folder = altered(tmp_path, lambda t: t.update({"model.surprise.weight": torch.ones(2, 3)}), shards=2)
    refuses(folder, "model-0000", "model.surprise.weight", "F32 [2, 3]", "no place")


def test_draft_head_that_config_does_not_declare(tmp_path):
    folder = tiny.tiny(tmp_path, "flash")
    config = {key: value for key, value in tiny.CONFIGS["flash"].items() if key != "num_nextn_predict_layers"}
    (folder / "config.json").write_text(json.dumps(config))
    refuses(folder, "model.mtp.", "no place")


def test_misshapen_tensor(tmp_path):
    folder = altered(tmp_path, lambda t: t.update({NORM: torch.ones(7).bfloat16()}))
    refuses(folder, FILE, NORM, "BF16 [7]", f"expected shape [{tiny.H}]")


@pytest.mark.parametrize(("rows", "columns"), [(tiny.ROWS[0] - 1, tiny.H // tiny.T), (tiny.ROWS[0] + 9, 5)])
def test_ngram_table_too_short_or_too_wide(tmp_path, rows, columns):
    name = "model.ngram_embeddings.embedders.0.weight"
    folder = altered(tmp_path, lambda t: t.update({name: torch.ones(rows, columns).bfloat16()}), "lite")
    refuses(folder, name, f"BF16 [{rows}, {columns}]", f"at least {tiny.ROWS[0]} rows of shape [{tiny.H // tiny.T}]")


def test_padding_rows_are_for_tables_only(tmp_path):
    name = "lm_head.weight"
    refuses(altered(tmp_path, lambda t: t.update({name: torch.ones(tiny.V + 1, tiny.H).bfloat16()})), name, "expected")


def test_dtype_that_is_no_weights(tmp_path):
    refuses(altered(tmp_path, lambda t: t.update({NORM: torch.ones(tiny.H, dtype=torch.int64)})), NORM, "I64", "F32")


def test_fp8_without_scale(tmp_path):
    name = "lm_head.weight"
    folder = altered(tmp_path, lambda t: t.update({name: t[name].to(torch.float8_e4m3fn)}))
    refuses(folder, FILE, name, "F8_E4M3", f"{name}_scale_inv is missing")


def test_fp8_with_misshapen_scale(tmp_path):
    name = "lm_head.weight"
    change = {name: torch.ones(tiny.V, tiny.H).to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(2, 1)}
    refuses(altered(tmp_path, lambda t: t.update(change)), f"{name}_scale_inv", "F32 [2, 1]", "expected F32 [1, 1]")


def test_scale_without_eight_bit_weight(tmp_path):
    name = "lm_head.weight_scale_inv"
    refuses(altered(tmp_path, lambda t: t.update({name: torch.ones(1, 1)})), name, "no place")


def test_bad_block_size(tmp_path):
    folder = tiny.tiny(tmp_path, "flash")
    config = tiny.CONFIGS["flash"] | {"quantization_config": {"weight_block_size": 128}}
    (folder / "config.json").write_text(json.dumps(config))
    refuses(folder, "config.json", "weight_block_size is 128", "[rows, columns]")


def test_truncated_file(tmp_path):
    folder = tiny.tiny(tmp_path, "flash")
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[:-10])
    last = max(json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]).items(), key=_end)[0]
    refuses(folder, FILE, "truncated", last, "10 bytes past the end")


def _end(item):
    return item[1].get("data_offsets", [0, 0])[1]


def test_file_that_shrinks_after_it_was_opened(tmp_path):
    from homegrown.hub.checkpoint import Checkpoint

    folder = tiny.tiny(tmp_path, "flash")
    checkpoint = Checkpoint(folder)
    last = max(checkpoint.tensors.values(), key=lambda stored: stored.offset)
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1])
    with pytest.raises(HubError, match=f"truncated: it ends inside tensor {last.name}"):
        checkpoint.load(last.name)


@pytest.mark.parametrize("size", [0, 5, 8, 9])
def test_file_too_short_for_a_header(tmp_path, size):
    folder = tiny.tiny(tmp_path, "flash")
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:size])
    refuses(folder, FILE, "not a safetensors file")


def raw(folder, table, data=b"", length=None):
    """A file with a header of one's own."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + data
    tiny.tiny(folder, "flash")
    (folder / FILE).write_bytes(content)
    return folder


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("table", "data", "words"),
    [
        (b"{not json", b"", ["header is not JSON"]),
        (b"\xff\xfe\xfd", b"", ["header is not JSON"]),
        (b"[1, 2]", b"", ["header is not a JSON object"]),
        (b"[" * 100_000, b"", ["header is not JSON"]),
        ({"a": 3}, b"", ["tensor a", "dtype, shape and data_offsets"]),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"", ["tensor a", "dtype, shape and data_offsets"]),
        ({"a": entry("F4")}, b"1234", ["tensor a", "F4", "not supported"]),
        ({"a": entry(shape=[-1])}, b"1234", ["tensor a", "no shape"]),
        ({"a": entry(shape=[3])}, b"1234", ["tensor a", "takes 12 bytes", "gives it 4"]),
        ({"a": entry(), "b": entry(offsets=[8, 12])}, b"1" * 12, ["tensor b", "leaves a gap"]),
        ({"a": entry(), "b": entry(offsets=[2, 6])}, b"1" * 6, ["tensor b", "overlaps"]),
        ({"a": entry(offsets=[-4, 0])}, b"1234", ["tensor a", "overlaps"]),
        ({"a": entry()}, b"12345678", ["4 bytes after the last tensor"]),
        (
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"1234",
            ["tensor a comes twice"],
        ),
    ],
)
def test_damaged_header(tmp_path, table, data, words):
    refuses(raw(tmp_path, table, data), FILE, *words)


def test_header_longer_than_the_file(tmp_path):
    refuses(raw(tmp_path, {}, length=1 << 60), FILE, "not a safetensors file")


def test_missing_shard(tmp_path):
    folder = tiny.tiny(tmp_path, "longcat", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refuses(folder, "model-00002-of-00003.safetensors: missing", "has tensor")


def test_tensor_not_in_the_shard_the_index_names(tmp_path):
    folder = tiny.tiny(tmp_path, "longcat", shards=3)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.ghost.weight"] = "model-00001-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    refuses(folder, "model-00001-of-00003.safetensors", "model.ghost.weight", "not there")
    del index["weight_map"]["model.ghost.weight"]
    index["weight_map"][NORM] = "model-00001-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    refuses(folder, "model-00001-of-00003.safetensors", NORM, "it lies in model-0000")


def test_tensor_in_two_files(tmp_path):
    folder = tiny.tiny(tmp_path, "lite", shards=2)
    save_file({NORM: tiny.weights("lite")[NORM]}, folder / "model-auxiliary.safetensors")
    refuses(folder, NORM, "two files", "model-auxiliary.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["not valid JSON"]),
        ("[]", ["must be a JSON object"]),
        ("{}", ["must have a weight_map"]),
        ('{"weight_map": {"a": "../../secret.safetensors"}}', ["tensor a", "not the name of a file in this directory"]),
        ('{"weight_map": {"a": 3}}', ["tensor a", "not the name of a file"]),
    ],
)
def test_damaged_index(tmp_path, content, words):
    folder = tiny.tiny(tmp_path, "flash", shards=2)
    (folder / INDEX).write_text(content)
    refuses(folder, INDEX, *words)


def test_no_weights(tmp_path):
    folder = tiny.tiny(tmp_path, "flash")
    (folder / FILE).unlink()
    refuses(folder, str(folder), FILE, INDEX)


@pytest.mark.parametrize(
    ("content", "words"), [(b"{", ["not valid JSON"]), (b"\xff", ["not valid JSON"]), (b"3", ["object"])]
)
def test_damaged_config(tmp_path, content, words):
    folder = tiny.tiny(tmp_path, "flash")
    (folder / "config.json").write_bytes(content)
    refuses(folder, "config.json", *words)


def test_no_config(tmp_path):
    folder = tiny.tiny(tmp_path, "flash")
    (folder / "config.json").unlink()
    refuses(folder, "config.json: no such file")


def test_unknown_architecture(tmp_path):
    folder = tiny.tiny(tmp_path, "flash")
    (folder / "config.json").write_text(json.dumps(tiny.BASE | {"architectures": ["DeepseekV3ForCausalLM"]}))
    refuses(folder, "config.json", "DeepseekV3ForCausalLM", "LongcatFlashForCausalLM")
