"""Runs sequences on a `Runner` by hand, without a scheduler."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from homegrown.serve.engine.batch import Batch, DraftBatch, DraftSegment, Segment, look_back
from homegrown.serve.engine.pages import PagePool
from homegrown.serve.engine.runner import Runner
from homegrown.serve.engine.served import Served


@dataclass
class Text:
    """A sequence: its tokens, how many of them have keys, its pages."""

    tokens: list[int]
    pages: list[int] = field(default_factory=list)
    done: int = 0
    drafts: list[int] = field(default_factory=list)


class Hands:
    """A runner and a pool whose pages are handed out in a random order."""

    def __init__(
        self, model: Served, invariant: bool = False, pages: int = 80, page_size: int = 4, seed: int = 0,
        drafts: bool = True, runner: Runner | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        pool = PagePool(model.config, pages, page_size, model.device, model.dtype, drafts)
        self.runner = runner or Runner(model, pool, invariant)
        self.pool = self.runner.pool
        random.Random(seed).shuffle(self.pool._free)
        # What was there before must not matter.
        for buffer in self.pool.buffers.all:
            buffer[1:] = 3.0

    def room(self, text: Text, count: int) -> None:
        missing = -(-count // self.pool.page_size) - len(text.pages)
        if missing > 0:
            taken = self.pool.allocate(missing)
            assert taken is not None, "the test's pool is too small"
            text.pages += taken

    def segment(self, text: Text, count: int, prefill: bool, wanted: int = 1, replay: bool = False) -> Segment:
        """The next `count` tokens of a text, drafts included."""
        self.room(text, text.done + count)
        known = [*text.tokens, *text.drafts]
        return Segment(
            tokens=known[text.done : text.done + count], past=text.done, pages=text.pages,
            earlier=look_back(self.model.config, text.tokens, text.done), prefill=prefill, replay=replay, wanted=wanted,
        )  # fmt: skip

    def run(self, segments: Sequence[tuple[Text, Segment]]) -> list[Tensor]:
        """One pass; each segment's logits. Its tokens count as done."""
        logits = self.runner.forward(Batch(segments=[segment for _, segment in segments]))
        for text, segment in segments:
            text.done += len(segment.tokens)
        return list(logits.split([segment.wanted for _, segment in segments]))

    def prefill(self, text: Text, chunk: int, stop: int | None = None) -> Tensor:
        """A text's tokens in chunks that end at multiples of `chunk`; the logits behind the last."""
        stop = len(text.tokens) if stop is None else stop
        while text.done < stop:
            count = min(chunk - text.done % chunk, stop - text.done)
            (logits,) = self.run([(text, self.segment(text, count, prefill=True))])
        return logits[-1]

    def draft(self, texts: Sequence[Text | None], counts: Sequence[int], steps: Sequence[int]) -> None:
        """Draft behind the newest `counts` tokens of each text, which continue the last pass's segments; `None` for a
        segment that is not continued."""
        segments, asked = [], []
        for number, (text, count, more) in enumerate(zip(texts, counts, steps, strict=True)):
            if text is None:
                continue
            past = len(text.tokens) - count
            self.room(text, len(text.tokens) + more)
            earlier = look_back(self.model.config, text.tokens, past)
            segments.append(
                DraftSegment(
                    segment=number, tokens=text.tokens[past:], past=past, pages=text.pages, earlier=earlier, steps=more
                )
            )
            asked.append(text)
        for text, drafts in zip(asked, self.runner.draft(DraftBatch(segments=segments)), strict=True):
            text.drafts = drafts

    def accept(self, text: Text, logits: Tensor) -> int:
        """Take the drafts that are the greedy choice, and one token more; how many tokens that is. The text's keys
        have just been made for its last token and the drafts."""
        verdict = logits.argmax(-1).tolist()
        agreed = next((at for at, token in enumerate(text.drafts) if token != verdict[at]), len(text.drafts))
        text.done -= len(text.drafts) - agreed
        text.tokens += verdict[: agreed + 1]
        text.drafts = []
        return agreed + 1

    def speculate(self, texts: Sequence[Text], limits: Sequence[int], steps: int, chunk: int) -> list[list[list[int]]]:
        """Greedy texts up to so many tokens; the drafts made for each, round by round."""
        made: list[list[list[int]]] = [[] for _ in texts]
        prompts = [len(text.tokens) for text in texts]
        while going := [number for number, text in enumerate(texts) if text.done < prompts[number]]:
            counts = [min(chunk - texts[number].done % chunk, prompts[number] - texts[number].done) for number in going]
            these = [texts[number] for number in going]
            segments = [
                (text, self.segment(text, count, prefill=True)) for text, count in zip(these, counts, strict=True)
            ]
            ended = []
            for number, logits in zip(going, self.run(segments), strict=True):
                text = texts[number]
                ended.append(text if text.done == prompts[number] else None)
                if ended[-1] is not None:
                    text.tokens.append(int(logits.argmax()))
            left = [limits[number] - len(texts[number].tokens) for number in going]
            self.draft(ended, [1] * len(ended), [max(min(steps, rest - 1), 0) for rest in left])
            for number, text_or_none in zip(going, ended, strict=True):
                if text_or_none is not None:
                    made[number].append(text_or_none.drafts)
        going = [number for number, text in enumerate(texts) if len(text.tokens) < limits[number]]
        while going:
            these = [texts[number] for number in going]
            segments = [
                (text, self.segment(text, 1 + len(text.drafts), prefill=False, wanted=1 + len(text.drafts)))
                for text in these
            ]
            counts = [self.accept(text, own) for text, own in zip(these, self.run(segments), strict=True)]
            left = [limits[number] - len(texts[number].tokens) for number in going]
            self.draft(these, counts, [max(min(steps, rest - 1), 0) for rest in left])
            for number, rest in zip(going, left, strict=True):
                if rest > 1:
                    made[number].append(texts[number].drafts)
            going = [number for number, rest in zip(going, left, strict=True) if rest]
        return made
