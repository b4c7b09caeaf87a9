from __future__ import annotations

from collections.abc import Iterator

import pytest

from homegrown.data import CorpusError, Document, Intake, SkipLog, Skipped


class Listed:
    """A corpus from memory."""

    name = "listed"
    text_bytes = None

    def __init__(self, *items: Document | Skipped) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Document | Skipped]:
        return iter(self._items)


def texts(count: int, prefix: str = "text") -> Listed:
    return Listed(*(Document(f"{prefix}{i}", f"content {i}") for i in range(count)))


def held(intake: Intake) -> set[str]:
    return {document.text for document in intake.documents() if document.held}


def test_duplicates_are_dropped_and_counted_across_corpora() -> None:
    skips = SkipLog()
    kept = list(Intake([texts(3), texts(5, "other")]).documents(skips))
    assert [document.source for document in kept] == ["text0", "text1", "text2", "other3", "other4"]
    assert skips.counts == {"duplicate": 3}


def test_duplicates_can_be_kept() -> None:
    assert len(list(Intake([texts(3), texts(3)], deduplicate=False).documents())) == 6


def test_the_split_depends_on_content_and_seed_only() -> None:
    chosen = held(Intake([texts(2000)]))
    # Binomial, n = 2000, p = 0.05: mean 100, standard deviation 9.7.
    assert 50 < len(chosen) < 150
    assert held(Intake([Listed(*reversed(list(texts(2000, "renamed"))))])) == chosen
    assert held(Intake([texts(1000)])) == {text for text in chosen if int(text.split()[1]) < 1000}
    assert held(Intake([texts(2000)], seed=1)) != chosen
    assert held(Intake([texts(2000)], held_fraction=0.0)) == set()
    assert held(Intake([texts(2000)], held_fraction=0.1)) > chosen


def test_bytes_are_counted_in_utf8() -> None:
    assert [document.text_bytes for document in Intake([Listed(Document("a", "é🙂"))]).documents()] == [6]


def test_text_that_is_not_unicode_is_left_out() -> None:
    skips = SkipLog()
    list(Intake([Listed(Document("a", "\ud800"), Document("b", "fine"))]).documents(skips))
    assert skips.counts == {"not Unicode": 1}


def test_nothing_left_is_an_error_that_says_why() -> None:
    corpus = Listed(Skipped("x.bin", "binary", "contains NUL bytes"), Skipped("y", "empty"), Skipped("z", "empty"))
    expected = r"listed: no documents \(left out: 1 binary, 2 empty; x\.bin: binary contains NUL bytes\)"
    with pytest.raises(CorpusError, match=expected):
        list(Intake([corpus]).documents())
    with pytest.raises(CorpusError, match=r"no corpus: no documents \(left out: nothing\)"):
        list(Intake([]).documents())


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(CorpusError, match="must be at least 0 and below 1"):
        Intake([texts(1)], held_fraction=fraction)
