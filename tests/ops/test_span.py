import pytest
import torch

from homegrown.ops import Span


def spans():
    first = torch.tensor([[0, 0, 2, 2, 2, 5, 5], [0, 1, 1, 1, 4, 4, 6]])
    return [Span.causal(2, 7), Span.causal(2, 4, past=3), Span.packed(first)]


def seen_by(span: Span, row: int, query: int) -> set[int]:
    return set(range(int(span.first[row, query]), int(span.last[row, query]) + 1))


@pytest.mark.parametrize("span", spans())
@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 3), (3, 4)])
def test_ranges_of_a_chunk(span, start, stop):
    """bounds is the hull of what the chunk's queries see, common what every one of them sees."""
    sets = [seen_by(span, row, query) for row in range(2) for query in range(start, stop)]
    union, common = set.union(*sets), set.intersection(*sets)
    assert span.bounds(start, stop) == (min(union), max(union) + 1)
    assert set(range(*span.common(start, stop))) == common


@pytest.mark.parametrize("span", spans())
def test_hidden_keys(span):
    hidden = span.hidden(1, 4, 0, 7)
    for row in range(2):
        for query in range(1, 4):
            assert set(torch.where(~hidden[row, query - 1])[0].tolist()) == seen_by(span, row, query)


def test_positions_count_from_the_document():
    first = torch.tensor([[0, 0, 2, 2, 2]])
    assert Span.packed(first).positions.tolist() == [[0, 1, 0, 1, 2]]
    assert Span.causal(1, 3, past=4).positions.tolist() == [[4, 5, 6]]
    assert Span.causal(1, 3, past=4).keys == 7


def test_fingerprints_tell_intervals_apart():
    first = torch.tensor([[0, 0, 2, 2]])
    assert Span.packed(first).fingerprint == Span.packed(first.clone()).fingerprint
    others = [Span.packed(torch.zeros_like(first)), Span.causal(1, 4, past=1), Span.packed(first.view(2, 2))]
    assert len({span.fingerprint for span in (Span.packed(first), *others)}) == 4
