from __future__ import annotations

import gzip
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from homegrown.data import CorpusError, Document, Skipped, open_corpus


def read(spec: str | Path, **options: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Texts and reasons of what was left out, by source."""
    items = list(open_corpus(str(spec), **options))
    documents = {item.source: item.text for item in items if isinstance(item, Document)}
    return documents, {item.source: item.reason for item in items if isinstance(item, Skipped)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "text"
    (root / "sub" / ".git").mkdir(parents=True)
    (root / "b.py").write_bytes(b"b = 1\r\n\ttail ")
    (root / "a.md").write_text("# a é\n")
    (root / "sub" / "c.py").write_text("c = 2\n")
    (root / "sub" / ".git" / "config.py").write_text("hidden")
    (root / ".hidden.py").write_text("hidden")
    return root


def test_a_folder_yields_its_visible_files_in_order_and_unchanged(folder: Path) -> None:
    documents, skipped = read(folder)
    assert list(documents) == [f"{folder}/a.md", f"{folder}/b.py", f"{folder}/sub/c.py"]
    assert documents[f"{folder}/b.py"] == "b = 1\r\n\ttail "
    assert not skipped


def test_extensions_choose_files(folder: Path) -> None:
    assert list(read(folder, extensions=[".md"])[0]) == [f"{folder}/a.md"]
    with pytest.raises(CorpusError, match=r"no files that end in \.rs, \.c in this folder"):
        read(folder, extensions=[".rs", ".c"])


def test_a_file_and_a_glob(folder: Path) -> None:
    assert list(read(folder / "a.md")[0]) == [f"{folder}/a.md"]
    assert list(read(f"{folder}/**/*.py")[0]) == [f"{folder}/b.py", f"{folder}/sub/c.py"]
    with pytest.raises(CorpusError, match="no file matches this pattern"):
        read(f"{folder}/*.rs")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere: no such file or folder"):
        read(tmp_path / "nowhere")


def test_junk_is_left_out_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\0\0text")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty").write_bytes(b" \n")
    (tmp_path / "good").write_text("text")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    documents, skipped = read(tmp_path)
    assert list(documents.values()) == ["text"]
    reasons = {Path(source).name: reason for source, reason in skipped.items()}
    assert reasons == {"binary": "binary", "latin": "not UTF-8", "empty": "empty", "dangling": "unreadable"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_files_and_folders_are_left_out(folder: Path) -> None:
    (folder / "a.md").chmod(0)
    (folder / "sub").chmod(0)
    try:
        documents, skipped = read(folder)
    finally:
        (folder / "sub").chmod(0o700)
    assert list(documents) == [f"{folder}/b.py"]
    assert skipped == {f"{folder}/sub": "unreadable", f"{folder}/a.md": "unreadable"}


LINES = ['{"text": "one", "id": 1}', "", "{broken", '{"id": 2}', '"text"', '{"text": 5}', '{"text": "two\\u0000"}']


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.jsonl.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    data = "\n".join([*LINES, '{"text": "thréé"}']).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    documents, skipped = read(path)
    assert documents == {f"{path}:1": "one", f"{path}:8": "thréé"}
    assert list(skipped.values()) == ["not a JSON object", "no text field", "not a JSON object", "not text", "binary"]


def test_a_wrong_text_field_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"content": "a", "id": 1}\n')
    with pytest.raises(CorpusError, match=r"t\.jsonl:1: no text field 'text'; there are: content, id"):
        read(tmp_path)
    assert list(read(tmp_path, text_field="content")[0].values()) == ["a"]


@pytest.mark.parametrize("cut", [20, -4])
def test_a_cut_gzip_is_left_out(tmp_path: Path, cut: int) -> None:
    data = gzip.compress("\n".join(json.dumps({"text": f"line {i}"}) for i in range(5)).encode())
    (tmp_path / "t.jsonl.gz").write_bytes(data[:cut])
    assert "unreadable" in read(tmp_path)[1].values()


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["a", None, "é"], "n": [1, 2, 3]}), tmp_path / "t.parquet")
    documents, skipped = read(tmp_path)
    assert documents == {f"{tmp_path}/t.parquet:1": "a", f"{tmp_path}/t.parquet:3": "é"}
    assert skipped == {f"{tmp_path}/t.parquet:2": "not text"}
    with pytest.raises(CorpusError, match="no text field 'body'; there are: text, n"):
        read(tmp_path, text_field="body")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense")
    assert read(tmp_path)[1] == {f"{tmp_path}/t.parquet": "unreadable"}


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r'pip install "homegrown-lm\[parquet\]"'):
        read(tmp_path)


def test_datasets_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r'pip install "homegrown-lm\[datasets\]"'):
        read("hf:owner/name")


def test_datasets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library needs a network; only its entry point is stood in for."""
    asked = []

    def load_dataset(path: str, config: str | None, *, split: str, streaming: bool) -> list[dict[str, Any]]:
        asked.append((path, config, split, streaming))
        if path == "gone":
            raise ConnectionError("no route")
        return [{"text": "one"}, {"text": None}, {"text": "two"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    documents, skipped = read("hf:owner/name:config@validation")
    assert documents == {"hf:owner/name:config@validation:1": "one", "hf:owner/name:config@validation:3": "two"}
    assert list(skipped.values()) == ["not text"]
    assert list(read("hf:owner/name")[0]) == ["hf:owner/name:1", "hf:owner/name:3"]
    assert asked == [("owner/name", "config", "validation", True), ("owner/name", None, "train", True)]
    with pytest.raises(CorpusError, match="no text field 'body'; there are: text"):
        read("hf:owner/name", text_field="body")
    with pytest.raises(CorpusError, match="hf:gone: cannot be read: no route"):
        read("hf:gone")


def test_the_standard_library_is_real_text_without_tests() -> None:
    corpus = open_corpus("stdlib")
    items = list(corpus)
    sources = [item.source for item in items]
    assert {"stdlib/argparse.py", "stdlib/json/decoder.py"} <= set(sources)
    assert not [source for source in sources if {"test", "tests", "site-packages"} & set(source.split("/"))]
    size = sum(len(item.text.encode()) for item in items if isinstance(item, Document))
    assert size > 5_000_000
    assert corpus.text_bytes is not None
    assert size <= corpus.text_bytes < 1.01 * size
