"""From one pass's logits to each request's next tokens, drafts included.

Drafted tokens need no rule of their own. Row i of a request holds the logits behind its first i drafts, which are what
plain decoding would see if its tokens were those drafts. So each row is chosen from as in plain decoding, with the same
settings, the same earlier tokens and the request's next random number, and the token is taken whatever it is; if it is
the draft, the next row is the right one to go on from, else the turn ends. By induction the tokens are those of plain
decoding: not only distributed alike, but the same ones for the same seed (given that passes of several rows compute
the logits of single rows, which batch-invariant mode provides to the last bit). Penalties and grammars see every token
before the next, and nothing is ever taken back.

No other exact rule accepts more: a draft x is accepted with its probability p(x) under the request's distribution, and
since the draft head proposes one token and not a distribution, min(1, p(x) / 1) is what speculative sampling accepts
(Leviathan et al. 2023, arXiv:2211.17192, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from homegrown.generate.sampling import greedy
from homegrown.serve.engine.choice import Choice
from homegrown.serve.engine.draw import draw
from homegrown.serve.engine.scores import scores
from homegrown.serve.grammar import GrammarError
from homegrown.serve.messages import TokenScore


@dataclass(frozen=True)
class Turn:
    """One request's part of a pass: 1 + len(drafts) rows of logits, behind its last token and behind each draft."""

    choice: Choice
    drafts: Sequence[int] = ()


@dataclass
class Chosen:
    """What a turn came to; whether the request has ended, and why, stands in its `Choice`.

    Attributes:
        tokens: accepted drafts and one more; fewer where an end comes first or something fails.
        accepted: drafts among them.
        scores: one per token, if the request asks for them.
    """

    tokens: list[int] = field(default_factory=list)
    accepted: int = 0
    scores: list[TokenScore] | None = None


@torch.inference_mode()
def choose(logits: Tensor, turns: Sequence[Turn]) -> list[Chosen]:
    """Choose the next tokens of several requests and note them in their `Choice`s.

    A request's tokens depend on its own rows and state alone. Where its logits are not finite, or its grammar cannot go
    on, its `Choice` ends with an error that names it, and the others are as they would be.

    Args:
        logits: [R, V], the rows of all turns one after another; left as they are.
        turns: of different requests, none of which has ended.

    Raises:
        ValueError: the turns have more or fewer rows than there are.
    """
    starts = list(accumulate((1 + len(turn.drafts) for turn in turns), initial=0))
    if starts.pop() != len(logits):
        raise ValueError(f"{len(logits)} rows of logits for {sum(1 + len(turn.drafts) for turn in turns)} positions")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    chosen = [Chosen() for _ in turns]
    finite = _finite(logits)
    live = list(range(len(turns)))
    while live:
        rows = [starts[index] + len(chosen[index].tokens) for index in live]
        tokens = _pick(logits, rows, [turns[index].choice for index in live], finite)
        for index, token in zip(live, tokens, strict=True):
            _commit(turns[index].choice, token, chosen[index])
        live = [index for index in live if _goes_on(turns[index], chosen[index])]
    for turn, start, result in zip(turns, starts, chosen, strict=True):
        result.accepted = sum(map(int.__eq__, result.tokens, turn.drafts))
        if turn.choice.sampling.logprobs >= 0:
            behind = logits[start : start + len(result.tokens)]
            result.scores = scores(behind, result.tokens, turn.choice.sampling.logprobs)
    return chosen


def _goes_on(turn: Turn, chosen: Chosen) -> bool:
    """Whether the newest token is the draft in its place, so that the next row holds."""
    place = len(chosen.tokens) - 1
    return turn.choice.finish is None and place < len(turn.drafts) and chosen.tokens[place] == turn.drafts[place]


def _commit(choice: Choice, token: int, chosen: Chosen) -> None:
    if choice.finish is not None:
        return
    try:
        choice.commit(token)
    except GrammarError as error:
        choice.fail(f"request {choice.request.id}: {error}")
    else:
        chosen.tokens.append(token)


def _pick(logits: Tensor, places: Sequence[int], choices: Sequence[Choice], finite: Sequence[bool]) -> list[int]:
    """A token for each of some rows of the logits; that of a choice which fails means nothing."""
    rows = _adjusted(logits, places, choices, finite)
    tokens = [-1] * len(choices)
    usable = [index for index, choice in enumerate(choices) if choice.finish is None]
    likeliest = [index for index in usable if choices[index].greedy]
    drawn = [index for index in usable if not choices[index].greedy]
    if likeliest:
        _place(tokens, likeliest, greedy(_some(rows, likeliest)).tolist())
    if drawn:
        configs = [choices[index].config for index in drawn]
        points = [choices[index].point() for index in drawn]
        _place(tokens, drawn, draw(_some(rows, drawn), configs, points))
    return tokens


def _adjusted(logits: Tensor, places: Sequence[int], choices: Sequence[Choice], finite: Sequence[bool]) -> Tensor:
    rows = _some(logits, places)
    adjusting = [index for index, choice in enumerate(choices) if choice.adjusts]
    if adjusting and rows is logits:
        rows = logits.clone()
    for index in adjusting:
        try:
            choices[index].adjust(rows[index])
        except GrammarError as error:
            choices[index].fail(f"request {choices[index].request.id}: {error}")
    for choice, place in zip(choices, places, strict=True):
        if not finite[place]:
            choice.fail(
                f"request {choice.request.id}: the model's logits are not finite; its weights are damaged or its "
                "training has diverged"
            )
    return rows


def _some(rows: Tensor, places: Sequence[int]) -> Tensor:
    """Some rows, in ascending order; all of them are not copied."""
    return rows if len(places) == len(rows) else rows[list(places)]


def _place(tokens: list[int], places: Sequence[int], found: Sequence[int]) -> None:
    for place, token in zip(places, found, strict=True):
        tokens[place] = token


def _finite(logits: Tensor) -> list[bool]:
    """Of each row, whether it is finite. A sum shows it in one quick reading, unless it overflows by itself."""
    sound = logits.sum(-1).isfinite()
    if not sound.all():
        sound = logits.isfinite().all(-1)
    return sound.tolist()
