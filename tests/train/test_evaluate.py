"""The held-out score against one forward pass per token."""

from __future__ import annotations

import math

import pytest
import torch

from homegrown.data import Split, TokenDataset
from homegrown.model import Longcat
from homegrown.train.evaluate import Score, evaluate, scorer_of

from . import tiny


@pytest.fixture(scope="module")
def model() -> Longcat:
    """In float64, with a head strong enough that tokens differ in cost."""
    model = Longcat(tiny.model_config())
    model.init_weights(3)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    return model.double()


@pytest.fixture(scope="module")
def short_held(tmp_path_factory) -> TokenDataset:
    """Six documents of 9 to 437 tokens."""
    folder = tmp_path_factory.mktemp("held")
    return tiny.write_tokens(tiny.write_corpus(folder / "corpus", documents=24, seed=7, long=8), folder / "data")


def window_start(token: int, seq_len: int) -> int:
    """Where the window that scores `token` begins: at 0 while the document's first seq_len + 1 tokens are scored, then
    half a window before the first token of each further window of seq_len + 1."""
    if token <= seq_len:
        return 0
    fresh = seq_len + 1 - seq_len // 2
    return seq_len + 1 + (token - seq_len - 1) // fresh * fresh - seq_len // 2


def brute_force(model: Longcat, split: Split, seq_len: int) -> dict[tuple[int, int], list[float]]:
    """Nats of all tokens, each predicted by a forward pass over just the tokens before it, by document and window."""
    nats: dict[tuple[int, int], list[float]] = {}
    for index in range(split.documents):
        ids = torch.from_numpy(split.document(index).astype("int64"))
        for token in range(1, len(ids)):
            start = window_start(token, seq_len)
            assert min(token, seq_len // 2) <= token - start <= seq_len
            with torch.no_grad():
                logits = model(ids[None, start:token])[0, -1]
            nats.setdefault((index, start), []).append(-logits.log_softmax(-1)[ids[token]].item())
    return nats


@pytest.mark.parametrize("seq_len", [16, 7])
def test_every_token_is_scored_once(model, short_held, seq_len):
    held = short_held.held
    lengths = [len(held.document(index)) for index in range(held.documents)]
    assert min(lengths) < 16 < 40 < max(lengths)
    passes: list[int] = []
    score = evaluate(scorer_of(model), held, seq_len, progress=passes.append)
    costs = [cost for window in brute_force(model, held, seq_len).values() for cost in window]
    nats, count = math.fsum(costs), len(costs)
    assert score.tokens == count == held.tokens - held.documents == sum(passes)
    assert score.nats == pytest.approx(nats, rel=1e-10)
    assert score.documents == held.documents
    for rows in (1, 3):
        assert evaluate(scorer_of(model), held, seq_len, rows=rows).nats == pytest.approx(nats, rel=1e-10)


def test_a_limit_takes_windows_from_all_over_the_split(model, short_held):
    held = short_held.held
    windows = list(brute_force(model, held, 16).items())
    total = sum(len(costs) for _, costs in windows)
    every = 3
    score = evaluate(scorer_of(model), held, 16, max_tokens=-(-total // every))
    chosen = windows[every // 2 :: every]
    assert score.tokens == sum(len(costs) for _, costs in chosen) < total / 2
    assert score.nats == pytest.approx(math.fsum(cost for _, costs in chosen for cost in costs), rel=1e-10)
    assert score.documents == len({document for (document, _), _ in chosen})
    each = [held.document_bytes(document) / (len(held.document(document)) - 1) for document in range(held.documents)]
    assert score.text_bytes == round(sum(each[document] * len(costs) for (document, _), costs in chosen))
    assert evaluate(scorer_of(model), held, 16, max_tokens=held.tokens + 1) == evaluate(scorer_of(model), held, 16)


def test_bits_per_byte_counts_the_bytes_of_the_text(model, short_held):
    """A head of zeros gives every token log2(V) bits, the end token included; bytes are those of the files."""
    blind = Longcat(tiny.model_config())
    blind.init_weights(0)
    with torch.no_grad():
        blind.lm_head.weight.zero_()
    held = short_held.held
    score = evaluate(scorer_of(blind), held, 16)
    text_bytes = sum(len(text) for text in short_held.texts("held"))
    assert score.text_bytes == text_bytes
    vocabulary = blind.config.vocab_size
    assert score.bits_per_byte == pytest.approx(score.tokens * math.log2(vocabulary) / text_bytes, rel=1e-6)
    assert score.nats_per_token == pytest.approx(math.log(vocabulary), rel=1e-6)


def test_score_definitions():
    score = Score(nats=math.log(2) * 300, tokens=50, text_bytes=200, documents=3)
    assert score.bits_per_byte == pytest.approx(1.5)
    assert score.nats_per_token == pytest.approx(6 * math.log(2))


def test_scoring_changes_nothing(model, short_held):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert evaluate(scorer_of(model), short_held.held, 16) == evaluate(scorer_of(model), short_held.held, 16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
