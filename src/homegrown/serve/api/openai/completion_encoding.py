"""Plain completions as OpenAI's `text_completion`, whole and in chunks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from homegrown.serve.api.openai.chunks import Frame, encode
from homegrown.serve.api.openai.head import Head
from homegrown.serve.api.openai.logprobs import CompletionLogprobs
from homegrown.serve.api.openai.usage import Tally
from homegrown.serve.collect import Answer
from homegrown.serve.errors import ApiError
from homegrown.serve.events import Ended, Event, Failed, Scored, Scores, Text

Logprobs: TypeAlias = Callable[[], CompletionLogprobs]
FINISH = {"stop": "stop", "length": "length", "calls": "stop"}


def encode_answers(head: Head, answers: Sequence[Answer], *, made: int, shown: int, logprobs: Logprobs | None) -> bytes:
    """The response.

    Args:
        head: constant fields.
        answers: of all prompts, in order.
        made, shown: how many a prompt were made, and how many of them, the likeliest, are shown.
        logprobs: show log probabilities, made by this for each answer.
    """
    tally = Tally(made)
    choices: list[dict[str, Any]] = []
    for number, answer in enumerate(answers):
        tally.add(number, answer.usage, answer.reasoning_tokens)
    for start in range(0, len(answers), made):
        for answer in _best(answers[start : start + made], shown):
            scores = [*answer.prompt_scores, *answer.scores]
            choices.append(
                {
                    "index": len(choices),
                    "text": answer.text,
                    "logprobs": logprobs().take(scores) if logprobs else None,
                    "finish_reason": FINISH[answer.reason],
                }
            )
    return head.whole(choices, tally.report())


def _best(answers: Sequence[Answer], shown: int) -> Sequence[Answer]:
    """Those of one prompt whose tokens have the highest mean log probability."""
    return answers if shown == len(answers) else sorted(answers, key=_likelihood, reverse=True)[:shown]


def _likelihood(answer: Answer) -> float:
    scores = [scored.score.logprob for scored in answer.scores if scored.score]
    return sum(scores) / len(scores) if scores else 0.0


class CompletionEncoder:
    """Chunks of one request.

    Args:
        head: constant fields.
        usage: end with the usage.
        logprobs: show log probabilities, made by this for each answer.
        answers: how many there will be of each prompt.
    """

    def __init__(self, head: Head, *, usage: bool, logprobs: Logprobs | None, answers: int) -> None:
        self._frame, self._tally, self._logprobs = Frame(head, usage), Tally(answers), logprobs
        self._scores: dict[int, list[Scored]] = defaultdict(list)  # come before their text
        self._shown: dict[int, CompletionLogprobs] = {}

    def chunk(self, event: Event) -> bytes:
        """See `Encoder`."""
        match event:
            case Text(answer, text):
                return self._choice(answer, text)
            case Scores(answer, tokens):
                if self._logprobs:
                    self._scores[answer] += tokens
            case Ended(answer, reason, _, usage, reasoning_tokens):
                self._tally.add(answer, usage, reasoning_tokens)
                return self._choice(answer, "", FINISH[reason])
            case Failed(kind, message):
                raise ApiError(kind, message)
        return b""

    def end(self) -> bytes:
        """See `Encoder`."""
        return self._frame.end(self._tally)

    def _choice(self, answer: int, text: str, finish: str | None = None) -> bytes:
        members = b'"text":%b,"logprobs":%b' % (encode(text), self._taken(answer))
        return self._frame.choice(answer, members, finish)

    def _taken(self, answer: int) -> bytes:
        """Log probabilities that have come since the last text."""
        tokens = self._scores.pop(answer, None)
        if not tokens or self._logprobs is None:
            return b"null"
        if answer not in self._shown:
            self._shown[answer] = self._logprobs()
        return encode(self._shown[answer].take(tokens))
