from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from homegrown.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerError

EOS = "</longcat_s>"

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(["def ", "\n", "\r\n", "\t", "    ", "x", "12", "é", "学", "🙂", "\u0301", *SPECIAL_TOKENS])
).map("".join)


@given(text=TEXT, plain=st.booleans())
def test_any_text_survives_the_round_trip(tokenizer: Tokenizer, text: str, plain: bool) -> None:
    ids = tokenizer.encode(text, plain=plain)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer._inner.decode(ids, skip_special_tokens=False) == text


@given(text=TEXT)
def test_plain_encoding_never_yields_special_tokens(tokenizer: Tokenizer, text: str) -> None:
    assert all(token >= len(SPECIAL_TOKENS) for token in tokenizer.encode(text, plain=True))


@given(texts=st.lists(TEXT, max_size=5), plain=st.booleans())
def test_a_batch_is_encoded_as_its_texts(tokenizer: Tokenizer, texts: list[str], plain: bool) -> None:
    assert tokenizer.encode_batch(texts, plain=plain) == [tokenizer.encode(text, plain=plain) for text in texts]


@given(ids=st.lists(st.integers(0, 699)))
def test_decoding_any_ids_equals_the_library(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert tokenizer.decode(ids) == tokenizer._inner.decode(ids, skip_special_tokens=False)
    assert tokenizer.decode(ids, skip_special=True) == tokenizer._inner.decode(ids, skip_special_tokens=True)


def test_special_spellings_are_one_id_or_mere_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a</longcat_s>")[-1] == tokenizer.eos_id
    assert tokenizer.eos_id not in tokenizer.encode("a</longcat_s>", plain=True)


def test_skipping_special_tokens_keeps_tags(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<longcat_assistant><longcat_think>hm</longcat_think>yes</longcat_s>")
    assert tokenizer.decode(ids, skip_special=True) == "<longcat_think>hm</longcat_think>yes"


def test_ids_past_the_vocabulary_decode_to_nothing_and_negative_ones_are_refused(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.vocab_size, 10**6]) == "a"
    with pytest.raises(ValueError, match="token id -1"):
        tokenizer.decode([-1])


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="text 1: not Unicode text"):
        tokenizer.encode_batch(["fine", "\ud800"])


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "first")
    loaded = Tokenizer.from_dir(tmp_path / "first")
    loaded.save(tmp_path / "second")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert loaded.digest == tokenizer.digest
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id, loaded.vocab_size) == (1, 2, 3, 700)
    assert loaded.encode("def f(): pass") == tokenizer.encode("def f(): pass")


def test_survives_pickling(tokenizer: Tokenizer) -> None:
    assert pickle.loads(pickle.dumps(tokenizer)).encode("x = 1") == tokenizer.encode("x = 1")


@pytest.fixture
def published(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A directory in the manner of a published one: it appends EOS, truncates, and knows no padding token."""
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    inner.post_processor = tokenizers.processors.TemplateProcessing("$A </longcat_s>", special_tokens=[(EOS, 2)])
    inner.enable_truncation(4)
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": {"content": "<longcat_s>", "lstrip": False}, "eos_token": EOS, "custom": [1]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_published_tokenizer_neither_appends_nor_truncates(tokenizer: Tokenizer, published: Path) -> None:
    loaded = Tokenizer.from_dir(published)
    text = "a long enough text of several words"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.encode(text + EOS, plain=True) == tokenizer.encode(text + EOS, plain=True)
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (1, 2, 2)
    assert loaded.chat_template is None


def test_a_published_config_is_kept(published: Path, tmp_path: Path) -> None:
    Tokenizer.from_dir(published).save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy/tokenizer_config.json").read_text())["custom"] == [1]
    assert (tmp_path / "copy/tokenizer.json").read_bytes() == (published / "tokenizer.json").read_bytes()


def test_the_template_file_goes_before_the_config(published: Path) -> None:
    config = json.loads((published / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "config"}]
    (published / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    assert Tokenizer.from_dir(published).chat_template == "config"
    (published / "chat_template.jinja").write_text("file")
    tokenizer = Tokenizer.from_dir(published)
    assert tokenizer.chat_template == "file"
    tokenizer.chat_template = "changed"
    tokenizer.save(published)
    assert Tokenizer.from_dir(published).chat_template == "changed"


def test_without_a_config_the_familys_tokens_hold(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    loaded = Tokenizer.from_dir(tmp_path)
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id, loaded.chat_template) == (1, 2, 3, None)


def _break_config(path: Path) -> None:
    (path / "tokenizer_config.json").write_text("[]")


def _name_unknown_eos(path: Path) -> None:
    (path / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')


def _name_no_default_template(path: Path) -> None:
    (path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "rag", "template": ""}]}')


def _make_word_level(path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0})).save(str(path / "tokenizer.json"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "tokenizer.json").unlink(), "tokenizer.json: no such file"),
        (lambda path: (path / "tokenizer.json").write_text("{}"), "tokenizer.json: not a tokenizer definition"),
        (lambda path: (path / "tokenizer.json").write_bytes(b"\xff"), "tokenizer.json: cannot be read"),
        (_make_word_level, "byte-level BPE, this one is WordLevel"),
        (_break_config, "tokenizer_config.json: must be a JSON object"),
        (_name_unknown_eos, "eos_token is '<|end|>', which is not in the vocabulary"),
        (_name_no_default_template, "names rag, but no 'default'"),
    ],
)
def test_damaged_directories_are_named(
    tokenizer: Tokenizer, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    tokenizer.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_dir(tmp_path)
