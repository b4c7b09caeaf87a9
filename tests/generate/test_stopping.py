"""Stop texts: the result does not depend on the pieces a text comes in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.generate import StopTexts

TEXT = st.text(alphabet="ab\n", max_size=24)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), max_size=4)


def reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """Character by character: at the first that completes a stop text, cut the longest one that it completes."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@settings(deadline=None)
@given(st.lists(TEXT, max_size=8), STOPS)
def test_any_pieces_give_the_same_text(pieces: list[str], stops: list[str]) -> None:
    stream = StopTexts(stops)
    released = [stream.push(piece) for piece in pieces]
    assert ("".join(released) + stream.flush(), stream.hit) == reference("".join(pieces), stops)


@settings(deadline=None)
@given(TEXT, STOPS)
def test_nothing_is_held_back_without_need(text: str, stops: list[str]) -> None:
    """What is held back is the beginning of some stop text, so one more piece could cut it."""
    stream = StopTexts(stops)
    released = stream.push(text)
    if not stream.hit:
        held = text[len(released) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_text_across_pieces() -> None:
    stream = StopTexts(["\n\n", "END"])
    assert [stream.push(piece) for piece in ("one\n", "two\nE", "N", "O", "\n", "\nthree", "four")] == [
        "one", "\ntwo\n", "", "ENO", "", "", "",
    ]  # fmt: skip
    assert stream.hit
    assert stream.flush() == ""


def test_what_is_held_back_comes_at_the_end() -> None:
    stream = StopTexts(["END"])
    assert stream.push("the EN") == "the "
    assert stream.flush() == "EN"


def test_the_stop_text_that_is_complete_first_counts() -> None:
    stream = StopTexts(["abcd", "bc"])
    assert stream.push("xabcd") == "xa"
    assert stream.found == "bc"
