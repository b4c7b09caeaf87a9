"""From what is planned to what a pass runs on, and from its logits to new tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from homegrown.config import ModelConfig
from homegrown.serve.engine.batch import Batch, DraftBatch, DraftSegment, Segment, look_back
from homegrown.serve.engine.choose import Turn, choose
from homegrown.serve.engine.scheduler import Piece
from homegrown.serve.engine.scores import scores
from homegrown.serve.engine.sequence import Sequence
from homegrown.serve.messages import TokenScore


@dataclass(frozen=True)
class Answer:
    """New tokens of a sequence.

    Attributes:
        segment: number of its piece in the pass.
        tokens: accepted drafts and one more; fewer where an end comes first or something fails.
        accepted: drafts among them.
        scores: one per token, if they are asked for.
        compute: real experts of the row that each token was chosen from, averaged over layers.
        sound: whether the logits were finite.
    """

    sequence: Sequence
    segment: int
    tokens: list[int]
    accepted: int
    scores: list[TokenScore] | None
    compute: list[float]
    sound: bool


def batch(config: ModelConfig, pieces: list[Piece]) -> Batch:
    """What a pass runs on."""
    return Batch(segments=[_segment(config, piece) for piece in pieces])


def _segment(config: ModelConfig, piece: Piece) -> Segment:
    sequence, past = piece.sequence, piece.sequence.computed
    return Segment(
        tokens=sequence.tokens[past : past + piece.count] + sequence.drafts,
        past=past,
        pages=sequence.pages,
        earlier=look_back(config, sequence.tokens, past),
        prefill=piece.kind == "prompt",
        replay=piece.kind == "replay",
        wanted=_wanted(piece),
    )


def _wanted(piece: Piece) -> int:
    """Logits that are needed: where a token is chosen, a draft is checked, or the prompt is scored."""
    if _scores_prompt(piece):
        return piece.count
    return 1 + len(piece.sequence.drafts) if piece.ends else 0


def _scores_prompt(piece: Piece) -> bool:
    return piece.kind == "prompt" and piece.sequence.prompt_scores is not None


@torch.inference_mode()
def choose_answers(pieces: list[Piece], logits: Tensor, real_experts: Callable[[], Tensor]) -> list[Answer]:
    """New tokens of the pieces that end where their sequences do; the prompts that are to be scored are.

    Args:
        pieces: what was run.
        logits: [sum of what they wanted, V].
        real_experts: gives the real experts of every token that was run, [N]; asked where a token is chosen.
    """
    rows: list[int] = []
    ending: list[tuple[int, int, Piece]] = []
    first = 0
    for number, (piece, start, stop) in enumerate(_parts(pieces)):
        if _scores_prompt(piece):
            _score(piece, logits[start:stop])
            start = stop - 1
        if piece.ends:
            rows.extend(range(start, stop))
            # Its new tokens come of its last known token, and of its drafts.
            ending.append((number, first + piece.count - 1, piece))
        first += piece.count + len(piece.sequence.drafts)
    if not ending:
        return []
    wanted = logits if len(rows) == len(logits) else logits[rows]
    chosen = choose(wanted, [Turn(piece.sequence.choice, piece.sequence.drafts) for _, _, piece in ending])
    real = real_experts().tolist()
    answers, start = [], 0
    for (number, first, piece), made in zip(ending, chosen, strict=True):
        stop = start + 1 + len(piece.sequence.drafts)
        compute = real[first : first + len(made.tokens)]
        sound = not piece.sequence.choice.error or bool(wanted[start:stop].isfinite().all())
        answers.append(Answer(piece.sequence, number, made.tokens, made.accepted, made.scores, compute, sound))
        start = stop
    return answers


def _parts(pieces: list[Piece]) -> Iterator[tuple[Piece, int, int]]:
    """Each piece, and which rows of the logits are its."""
    start = 0
    for piece in pieces:
        stop = start + _wanted(piece)
        yield piece, start, stop
        start = stop


def _score(piece: Piece, logits: Tensor) -> None:
    """Score the prompt's tokens that come behind those of a piece."""
    sequence, start = piece.sequence, piece.sequence.computed + 1
    if sequence.prompt_scores is not None:
        following = sequence.request.prompt[start : start + piece.count]
        top = sequence.request.sampling.prompt_logprobs
        sequence.prompt_scores.extend(scores(logits[: len(following)], following, top))


def draft_batch(config: ModelConfig, answers: list[Answer], steps: int) -> DraftBatch:
    """What to draft behind.

    Args:
        config: the model.
        answers: not yet part of their sequences.
        steps: drafts at most. There are fewer before the longest that a sequence may get, and none behind its end,
            where the draft block's rows are only made complete.
    """
    segments = []
    for answer in answers:
        sequence, past = answer.sequence, len(answer.sequence.tokens)
        left = sequence.longest - past - len(answer.tokens)
        segments.append(
            DraftSegment(
                segment=answer.segment,
                tokens=answer.tokens,
                past=past,
                pages=sequence.pages,
                earlier=look_back(config, sequence.tokens, past),
                steps=0 if sequence.choice.finish else min(steps, max(left - 1, 0)),
            )
        )
    return DraftBatch(segments=segments)
