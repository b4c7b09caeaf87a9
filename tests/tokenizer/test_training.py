from __future__ import annotations

import subprocess
import sys

import pytest

from homegrown.tokenizer import MIN_VOCAB, SPECIAL_TOKENS, Tokenizer, TokenizerError, train_tokenizer


def test_special_tokens_have_the_familys_ids(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    assert tokenizer.token_id("<longcat_unk>") == 0


def test_vocabulary_has_the_size_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 700


def test_a_text_without_repetition_gives_a_smaller_vocabulary() -> None:
    assert train_tokenizer(["abc"], 700).vocab_size == MIN_VOCAB


def test_training_is_deterministic_across_processes() -> None:
    code = (
        "import inspect, json, argparse; from homegrown.tokenizer import train_tokenizer;"
        "print(train_tokenizer([inspect.getsource(m) for m in (json, argparse)], 900).digest)"
    )
    digests = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["x", " =", " ", "1", "2", "3", "4"],
        ["def", " f", "(self", "):\n       ", " return", " self", ".foo", "_bar"],
        ["pass", "\n\n", "class", " A", ":\n   ", " x", "\n   ", " y", "\r\n"],
        ["学习", "abc", "学习"],
        ["हिन्दी", " नमस्ते"],
    ],
)
def test_text_is_split_where_merges_must_not_cross(tokenizer: Tokenizer, words: list[str]) -> None:
    text = "".join(words)
    pieces = tokenizer._inner.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in pieces] == words


def test_line_end_and_indentation_become_one_token() -> None:
    body = "".join(f"def f{i}(self):\n        return {i}\n\n\nclass A:\n    pass\n" for i in range(50))
    tokenizer = train_tokenizer([body], 400)
    assert len(tokenizer.encode("):\n       ")) == 1
    assert len(tokenizer.encode("\n\n\n")) == 1


def test_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match=f"vocab_size = 256: must be at least {MIN_VOCAB}"):
        train_tokenizer(["text"], 256)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer(texts, 400)
