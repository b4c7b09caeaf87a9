from __future__ import annotations

import inspect
import random
import subprocess
import time
from pathlib import Path

import pytest

from homegrown.data import CorpusError, Intake, open_corpus, tokenizer_for


def word(index: int) -> str:
    """A word of its own for each index, with the space before it."""
    return " " + "".join(random.Random(index).choices("abcdefghijklmnopqrstuvwxyz", k=6))


def _write(folder: Path, order: list[int]) -> Intake:
    folder.mkdir()
    for position, index in enumerate(order):
        (folder / f"{position:03d}").write_text(word(index) * 50)
    return Intake([open_corpus(str(folder))], held_fraction=0.2)


def test_held_out_text_is_not_learnt_from(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    intake = _write(folder, list(range(40)))
    held = {document.source for document in intake.documents() if document.held}
    assert held
    trained = tokenizer_for(intake, 400)
    for source in held:
        Path(source).unlink()
    assert tokenizer_for(intake, 400).digest == trained.digest


def test_a_limited_sample_is_the_same_in_any_order(tmp_path: Path) -> None:
    forward = _write(tmp_path / "forward", list(range(60)))
    backward = _write(tmp_path / "backward", list(range(59, -1, -1)))
    sampled = tokenizer_for(forward, 1000, sample_bytes=4000)
    assert tokenizer_for(backward, 1000, sample_bytes=4000).digest == sampled.digest
    # 4,000 bytes hold eleven documents of 350: their words are one token each, the others are not.
    assert sum(len(sampled.encode(word(index))) == 1 for index in range(60)) == 11


def test_a_document_larger_than_the_sample_is_still_used(tmp_path: Path) -> None:
    intake = _write(tmp_path / "text", [1])
    assert len(tokenizer_for(intake, 400, sample_bytes=1).encode(word(1))) == 1


def test_all_held_out_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("text")
    with pytest.raises(CorpusError, match="none is left for training"):
        tokenizer_for(Intake([open_corpus(str(tmp_path))], held_fraction=0.9999999), 400)


def test_training_on_the_standard_library_is_quick_and_compresses_python() -> None:
    intake = Intake([open_corpus("stdlib")])
    began = time.perf_counter()
    tokenizer = tokenizer_for(intake, 4096)
    # Two seconds on two idle cores; the bound leaves room for a busy machine.
    assert time.perf_counter() - began < 30
    assert tokenizer.vocab_size == 4096
    source = inspect.getsource(subprocess)
    assert len(source.encode()) / len(tokenizer.encode(source)) > 3.3
