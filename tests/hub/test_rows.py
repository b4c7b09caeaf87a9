"""Rows of parameters straight from files, against the model that `load` makes of the same directory."""

from __future__ import annotations

import pytest
import torch

import homegrown
from homegrown.hub import HubError, pieces_from_directory
from homegrown.hub.source import open_source

from . import tiny

TABLE, EXPERTS = "ngram_embeddings.table", "layers.1.mlp.experts.gate_up_proj"


@pytest.mark.parametrize("scheme", ["flash", "lite", "longcat"])
def test_rows_are_those_of_the_loaded_model(tmp_path, scheme):
    source = tiny.tiny(tmp_path / "in", scheme, shards=2)
    model, _ = homegrown.load(source)
    state = model.state_dict()
    wanted = []
    for name, tensor in state.items():
        cut = len(tensor) // 3
        wanted += [(name, 0, cut), (name, cut, len(tensor))]
    found = list(pieces_from_directory(source, wanted, model.config))
    assert [rows for rows, _ in found] == wanted
    for (name, start, stop), piece in found:
        assert piece.dtype == torch.float32
        assert torch.equal(piece, state[name][start:stop].float()), name


def test_rows_that_cross_the_borders_of_stored_tensors(tmp_path):
    """The n-gram tables are files' tensors of their own, and one parameter here."""
    source = tiny.tiny(tmp_path / "in", "longcat")
    model, _ = homegrown.load(source)
    border = tiny.ROWS[0]
    rows = (TABLE, border - 2, border + 3)
    [(_, piece)] = pieces_from_directory(source, [rows], model.config, torch.bfloat16)
    assert torch.equal(piece, model.state_dict()[TABLE][border - 2 : border + 3])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (("layers.7.norm", 0, 1), "parameter layers.7.norm is not there, where the model has no such parameter"),
        (("embed_tokens.weight", 60, 65), "parameter embed_tokens.weight has 64 rows, not 60 to 65"),
    ],
)
def test_rows_that_are_not_there(tmp_path, rows, words):
    source = tiny.tiny(tmp_path / "in", "longcat")
    with open_source(source) as opened:
        config = opened.config
    with pytest.raises(HubError, match=words):
        list(pieces_from_directory(source, [rows], config))


def test_a_model_of_another_shape(tmp_path):
    source = tiny.tiny(tmp_path / "in", "longcat")
    other = tiny.tiny(tmp_path / "other", "flash")
    with open_source(other) as opened:
        config = opened.config
    with open_source(source) as opened, pytest.raises(HubError, match=f"parameter {TABLE} has shape .* no such"):
        list(pieces_from_directory(source, [(TABLE, 0, 1)], config))
