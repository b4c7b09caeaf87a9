"""Log probabilities against torch's own."""

from __future__ import annotations

import pytest
import torch

from homegrown.serve.engine.choose import Turn, choose
from homegrown.serve.engine.scores import scores

from .choosing import choice


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_against_log_softmax(dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(7, 300, generator=torch.Generator().manual_seed(0))).to(dtype)
    tokens = [0, 299, 5, 5, 17, 100, 3]
    expected = logits.double().log_softmax(-1)
    best = expected.topk(4, -1)
    for index, score in enumerate(scores(logits, tokens, 4)):
        assert score.logprob == pytest.approx(float(expected[index, tokens[index]]), abs=1e-5)
        assert [logprob for _, logprob in score.top] == pytest.approx(best.values[index].tolist(), abs=1e-5)
        if dtype != torch.bfloat16:  # which has ties
            assert [token for token, _ in score.top] == best.indices[index].tolist()
    assert [score.top for score in scores(logits, tokens, 0)] == [()] * 7


def test_of_equals_the_lowest_id() -> None:
    logits = torch.zeros(1, 2000)
    logits[0, 1500] = 1
    assert [token for token, _ in scores(logits, [7], 4)[0].top] == [1500, 0, 1, 2]
    assert len(scores(logits[:, :3], [1], 20)[0].top) == 3


def test_choosing_scores_the_models_own_logits() -> None:
    """Not the tempered, penalised, truncated ones; and one score for each token, drafts too."""
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    first, second = logits[0].argsort(descending=True)[:2].tolist()
    state = choice(40, temperature=0.0, logprobs=2, logit_bias={first: -50.0}, presence_penalty=1.5)
    drafts = [second, int(logits[1].argmax())]
    done = choose(logits, [Turn(state, drafts)])[0]
    assert done.tokens[0] == second
    assert done.scores == scores(logits[: len(done.tokens)], done.tokens, 2)
    assert done.scores[0].top[0][0] == first
    assert choose(logits[:1], [Turn(choice(40))])[0].scores is None
