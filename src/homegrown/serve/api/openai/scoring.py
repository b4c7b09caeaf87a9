"""Completions of no tokens: the prompt comes back, with its log probabilities if they are asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from homegrown.serve.events import Begun, Ended, Event, Failed, Scores, Text


async def only_prompts(
    events: AsyncGenerator[Event, None], texts: Sequence[str], each: int
) -> AsyncGenerator[Event, None]:
    """Events of completions of one token, the least that an engine makes, without that token.

    Args:
        events: closed in the end.
        texts: the prompts.
        each: answers of each prompt.
    """
    async with aclosing(events):
        async for event in events:
            match event:
                case Ended(answer, usage=usage):
                    yield Text(answer, texts[answer // each])
                    yield Ended(answer, "length", None, msgspec.structs.replace(usage, completion_tokens=0))
                case Begun() | Failed() | Scores(prompt=True):
                    yield event
