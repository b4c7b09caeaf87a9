from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from homegrown.data import CorpusError, DatasetError, Intake, TokenDataset, open_corpus, write_dataset
from homegrown.data.shards import token_dtype
from homegrown.tokenizer import Tokenizer


def test_documents_are_stored_whole_and_in_order(dataset: TokenDataset, intake: Intake) -> None:
    tokenizer = dataset.tokenizer()
    documents = list(intake.documents())
    for split, name in ((dataset.train, "train"), (dataset.held, "held")):
        expected = [document for document in documents if document.held == (name == "held")]
        assert split.documents == len(expected) > 0
        assert list(dataset.sources(name)) == [document.source for document in expected]  # type: ignore[arg-type]
        assert list(dataset.texts(name)) == [document.text.encode() for document in expected]  # type: ignore[arg-type]
        for index, document in enumerate(expected):
            ids = split.document(index)
            assert ids.tolist() == [1, *tokenizer.encode(document.text, plain=True), 2]
            assert split.document_bytes(index) == document.text_bytes
        assert split.bytes == sum(document.text_bytes for document in expected)
        assert split.tokens == sum(len(split.document(index)) for index in range(split.documents))


def test_shards_roll_over_and_follow_the_documented_format(dataset: TokenDataset) -> None:
    shards = sorted((dataset.path / "train").glob("*.bin"))
    assert len(shards) > 2
    tokens = [np.fromfile(shard, "<u2") for shard in shards]
    assert all(len(shard) <= 1500 for shard in tokens)
    assert sum(map(len, tokens)) == dataset.train.tokens
    for shard, ids in zip(shards, tokens, strict=True):
        index = np.fromfile(shard.with_suffix(".idx"), "<i8").reshape(-1, 2)
        assert index[:, 0].tolist() == np.flatnonzero(ids == 1).tolist()
        assert (ids[np.append(index[1:, 0], len(ids)) - 1] == 2).all()


def test_a_document_longer_than_a_shard_gets_its_own(intake: Intake, dataset: TokenDataset, tmp_path: Path) -> None:
    tiny = write_dataset(intake, dataset.tokenizer(), tmp_path / "tiny", shard_tokens=1)
    assert len(list((tmp_path / "tiny/train").glob("*.bin"))) == tiny.train.documents == dataset.train.documents
    assert list(tiny.texts("held")) == list(dataset.texts("held"))


def test_special_spellings_in_text_are_no_boundaries(tmp_path: Path, dataset: TokenDataset) -> None:
    (tmp_path / "text").write_text("a</longcat_s><longcat_s>b")
    intake = Intake([open_corpus(str(tmp_path / "text"))], held_fraction=0)
    written = write_dataset(intake, dataset.tokenizer(), tmp_path / "out")
    assert written.train.documents == 1
    assert np.isin(written.train.document(0), [1, 2]).sum() == 2
    assert list(written.texts("train")) == [b"a</longcat_s><longcat_s>b"]


def test_nothing_held_out_on_request(tmp_path: Path, corpus: Path, dataset: TokenDataset) -> None:
    written = write_dataset(Intake([open_corpus(str(corpus))], held_fraction=0), dataset.tokenizer(), tmp_path / "out")
    assert (written.held.documents, written.held.tokens, written.held.bytes) == (0, 0, 0)
    assert list(written.texts("held")) == []


def test_bytes_per_token_counts_predicted_tokens(dataset: TokenDataset) -> None:
    predicted = sum(len(dataset.train.document(index)) - 1 for index in range(dataset.train.documents))
    assert dataset.bytes_per_token == dataset.train.bytes / predicted


@pytest.mark.parametrize(("vocab_size", "width"), [(400, 2), (65536, 2), (65537, 4), (163840, 4)])
def test_tokens_are_as_wide_as_the_vocabulary_needs(vocab_size: int, width: int) -> None:
    assert token_dtype(vocab_size).itemsize == width


def test_left_out_documents_are_listed(corpus: Path, dataset: TokenDataset, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"\0")
    twice = [open_corpus(str(path)) for path in (corpus, corpus, tmp_path / "junk")]
    written = write_dataset(Intake(twice, held_fraction=0.2), dataset.tokenizer(), tmp_path / "out")
    assert written.provenance["left_out"] == {"binary": 1, "duplicate": 60}
    lines = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert len(lines) == 61
    assert lines[-1] == {"source": f"{tmp_path}/junk", "reason": "binary", "detail": "contains NUL bytes"}


def test_the_fingerprint_is_that_of_the_tokens(
    intake: Intake, dataset: TokenDataset, corpus: Path, tmp_path: Path
) -> None:
    again = write_dataset(intake, dataset.tokenizer(), tmp_path / "again", shard_tokens=1500)
    assert again.fingerprint == dataset.fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(corpus, moved)
    elsewhere = Intake([open_corpus(str(moved))], held_fraction=0.2)
    same = write_dataset(elsewhere, dataset.tokenizer(), tmp_path / "same", shard_tokens=1500)
    assert same.fingerprint == dataset.fingerprint
    (moved / "0/file000.py").write_text("changed\n")
    other = write_dataset(elsewhere, dataset.tokenizer(), tmp_path / "other", shard_tokens=1500)
    assert other.fingerprint != dataset.fingerprint
    with pytest.raises(DatasetError, match="this is another dataset"):
        TokenDataset.open(tmp_path / "other", fingerprint=dataset.fingerprint)
    assert TokenDataset.open(tmp_path / "same", fingerprint=dataset.fingerprint).train.tokens == dataset.train.tokens


@pytest.fixture
def copy(dataset: TokenDataset, tmp_path: Path) -> Path:
    shutil.copytree(dataset.path, tmp_path / "copy")
    return tmp_path / "copy"


def _edit_manifest(path: Path, change: Callable[[dict], object]) -> None:
    table = json.loads((path / "dataset.json").read_text())
    change(table)
    (path / "dataset.json").write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "dataset.json").unlink(), "dataset.json: no such file; `homegrown data CORPUS --out"),
        (lambda path: (path / "dataset.json").write_text("{"), "dataset.json: cannot be read"),
        (lambda path: (path / "dataset.json").write_text("{}"), "not the manifest of a token dataset"),
        (lambda path: _edit_manifest(path, lambda t: t["content"].update(format=9)), "format 9, this version reads"),
        (lambda path: _edit_manifest(path, lambda t: t["content"].pop("bos_id")), "dataset.json: damaged"),
        (lambda path: _edit_manifest(path, lambda t: t["content"].update(bos_id=5)), "fingerprint does not fit"),
        (lambda path: (path / "train/00001.bin").unlink(), "train/00001.bin: cannot be opened"),
        (lambda path: os.truncate(path / "train/00001.bin", 100), "train/00001.bin: has 100 bytes"),
        (lambda path: (path / "tokenizer/tokenizer.json").write_text("{}"), "tokenizer.json: has 2 bytes"),
    ],
)
def test_damage_is_found_when_opening(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(DatasetError, match=message):
        TokenDataset.open(copy)


def test_a_flipped_bit_is_found_by_verifying(copy: Path) -> None:
    TokenDataset.open(copy).verify()
    data = bytearray((copy / "held/00000.bin").read_bytes())
    data[10] ^= 1
    (copy / "held/00000.bin").write_bytes(data)
    opened = TokenDataset.open(copy)
    with pytest.raises(DatasetError, match=r"held/00000\.bin: its content changed"):
        opened.verify()


def test_document_numbers_outside_the_split_are_refused(dataset: TokenDataset) -> None:
    for index in (-1, dataset.train.documents):
        with pytest.raises(IndexError, match="the train split has"):
            dataset.train.document(index)


def test_an_existing_target_is_not_replaced(intake: Intake, dataset: TokenDataset) -> None:
    with pytest.raises(DatasetError, match="exists already"):
        write_dataset(intake, dataset.tokenizer(), dataset.path)


def test_a_failure_leaves_nothing_behind(dataset: TokenDataset, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("text")
    intake = Intake([open_corpus(str(tmp_path / "one"))], held_fraction=1e-9)
    with pytest.raises(CorpusError, match="none of 1 documents is held out"):
        write_dataset(intake, dataset.tokenizer(), tmp_path / "out" / "dataset")
    intake = Intake([open_corpus(str(tmp_path / "one"))], held_fraction=1 - 1e-9)
    with pytest.raises(CorpusError, match="all 1 documents are held out"):
        write_dataset(intake, dataset.tokenizer(), tmp_path / "out" / "dataset")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tokenizer_without_boundaries_is_refused(intake: Intake, dataset: TokenDataset, tmp_path: Path) -> None:
    config = {"bos_token": "</longcat_s>", "eos_token": "</longcat_s>"}
    same = Tokenizer((dataset.path / "tokenizer/tokenizer.json").read_text(), config)
    with pytest.raises(DatasetError, match="boundaries need two"):
        write_dataset(intake, same, tmp_path / "out")
