"""What one pass runs on: plain data, so that every rank of a replica can be told the same."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from homegrown.config import ModelConfig


class Segment(msgspec.Struct, kw_only=True):
    """New tokens of one sequence.

    Attributes:
        tokens: the new tokens, at least one: a chunk of a prompt, or the last token chosen and the drafts behind it.
        past: position of the first of them: so many tokens of the sequence have their keys in `pages`.
        pages: the sequence's pages in order; they have room for the new tokens. Those that are written belong to this
            sequence alone.
        earlier: the tokens right before the new ones, as many as n-gram hashing looks back to (`look_back`).
        prefill: part of a prompt: rows are computed together, and hierarchical indexing applies.
        replay: generated tokens whose keys were dropped and are made again: computed as decoding computed them (in
            invariant mode to the last bit), however many there are.
        wanted: logits are asked for behind the last so many of `tokens`; 0 for none.
    """

    tokens: list[int]
    past: int
    pages: list[int]
    earlier: list[int] = []
    prefill: bool = False
    replay: bool = False
    wanted: int = 1

    @property
    def certain(self) -> bool:
        """Whether no token is a draft, so that the draft block's rows can be made along with the keys."""
        return self.prefill or self.replay


class Batch(msgspec.Struct, kw_only=True):
    """The segments of one pass, each of another sequence."""

    segments: list[Segment]

    @property
    def count(self) -> int:
        """New tokens in all."""
        return sum(len(segment.tokens) for segment in self.segments)


class DraftSegment(msgspec.Struct, kw_only=True):
    """Newly accepted tokens of one sequence, behind which to draft.

    Attributes:
        segment: number of the sequence's segment in the pass that was just run; its states are continued from.
        tokens: the newest tokens, each chosen behind a token of that segment, at least one.
        past: position of the first of them.
        pages: the sequence's pages; they have room for `past + len(tokens) + steps - 1` positions.
        earlier: the tokens right before `tokens` (`look_back`).
        steps: drafts wanted; 0 only keeps the draft block's rows complete.
    """

    segment: int
    tokens: list[int]
    past: int
    pages: list[int]
    earlier: list[int] = []
    steps: int = 1


class DraftBatch(msgspec.Struct, kw_only=True):
    """The sequences of one drafting, each once."""

    segments: list[DraftSegment]


def look_back(config: ModelConfig, tokens: Sequence[int], past: int) -> list[int]:
    """The tokens of a sequence that n-gram hashing of position `past` and later ones may need: at most n − 1."""
    return list(tokens[max(past - max(config.ngram.order - 1, 0), 0) : past])
