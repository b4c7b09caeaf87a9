"""A backend that says given texts, with the figures that a real engine would have."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

from homegrown.serve.card import ModelCard
from homegrown.serve.messages import Output, Request

from ..scripted import ScriptedBackend
from ..tiny import tiny_tokenizer

CARD = ModelCard(id="tiny", context_length=65536, max_output=32768, name="Tiny", thinking=False)
THOUGHT = "</longcat_think>\n"


class Talker(ScriptedBackend):
    """Says these texts, one for each request in turn and then the last one again.

    Attributes:
        says: the texts; may be changed while it runs.
        compute: whether it tells how many experts tokens were given.
    """

    def __init__(self, *texts: str, **options) -> None:
        self.begin(*texts, **options)

    def begin(self, *texts: str, compute: bool = True, **options) -> None:
        """Forget everything, and say these from now on."""
        super().__init__(self._next, **options)
        self.says, self.compute = list(texts), compute

    def _next(self, request: Request) -> list[int]:
        text = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        return [*tiny_tokenizer().encode(text), tiny_tokenizer().eos_id]

    def prompt(self, number: int = -1) -> str:
        """The prompt of a request, as text."""
        return tiny_tokenizer().decode(self.requests[number].prompt)

    async def submit(self, request: Request) -> AsyncIterator[Output]:
        dice = random.Random(1)
        async for output in super().submit(request):
            if self.compute:
                output.compute = [round(min(max(dice.gauss(3, 1), 0), 6), 2) for _ in output.tokens]
            if output.finish and output.usage:
                output.usage.drafted, output.usage.accepted = 40, 30
            yield output


def call(name: str, **arguments: str) -> str:
    """A tool call as the model writes it."""
    pairs = (
        f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>{value}</longcat_arg_value>\n"
        for key, value in arguments.items()
    )
    return f"<longcat_tool_call>{name}\n{''.join(pairs)}</longcat_tool_call>"
