from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from homegrown.tokenizer import Tokenizer


@given(ids=st.lists(st.integers(0, 720)), skip=st.booleans())
def test_pieces_joined_equal_decoding_at_once(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    stream = tokenizer.stream(skip_special=skip)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids, skip_special=skip)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_valid_text_never_shows_a_replacement(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream()
    shown = ""
    for token in tokenizer.encode(text):
        shown += stream.push(token)
        assert text.startswith(shown)
    assert shown == text
    assert stream.flush() == ""


def test_a_split_character_waits_until_it_is_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("𝄞")
    assert len(ids) == 4
    stream = tokenizer.stream()
    assert [stream.push(token) for token in ids] == ["", "", "", "𝄞"]


def test_an_unfinished_character_is_flushed_once(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    stream.push(tokenizer.encode("𝄞")[0])
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""
    assert stream.push(tokenizer.encode("a")[0]) == "a"
