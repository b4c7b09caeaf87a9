"""The course of a training run: its stages with their sequences and tokens, and the batch of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from math import ceil, log2
from pathlib import Path
from typing import Any

from homegrown.config.errors import ConfigError
from homegrown.config.files import read_toml
from homegrown.plan.facts import Shape
from homegrown.plan.units import TOKENS, context
from homegrown.plan.work import flops

USUAL = 8192
"""Tokens of a sequence where nothing says how a model was trained; less if its context is shorter."""
_EXAMPLE = "8192:33T,131072:1.5T,1M:0.5T"


@dataclass(frozen=True)
class Leg:
    """A part of a run whose sequences are alike.

    Attributes:
        sequence: tokens of a sequence.
        tokens: of this part.
    """

    sequence: int
    tokens: float

    @property
    def name(self) -> str:
        """Its sequence, as context lengths are written."""
        for size, suffix in ((1 << 20, "M"), (1 << 10, "K")):
            if self.sequence % size == 0:
                return f"{self.sequence // size}{suffix}"
        return str(self.sequence)


@dataclass(frozen=True)
class Course:
    """Legs in order, and a sentence on where they are from."""

    legs: tuple[Leg, ...]
    reason: str

    @property
    def tokens(self) -> float:
        """Of all legs."""
        return sum(leg.tokens for leg in self.legs)


def course_of(text: str) -> Course:
    """A course as users write it: `8192:33T,131072:1.5T,1M:0.5T`, sequence and tokens of each leg.

    Raises:
        ConfigError: it is written otherwise, or holds a length or a number of tokens that cannot be.
    """
    legs = []
    for entry in text.split(","):
        sequence, colon, tokens = entry.partition(":")
        if not colon:
            raise ConfigError(f"stages = {text!r}: {entry!r} must be SEQUENCE:TOKENS, as in {_EXAMPLE!r}")
        legs.append(Leg(context(sequence.strip(), "stages"), tokens_of(tokens.strip(), "stages")))
    return Course(tuple(legs), "stages as given")


def tokens_of(text: str, where: str = "tokens") -> float:
    """A number of tokens with its unit. A bare one below a million would be a slip of the pen, not a training run.

    Raises:
        ConfigError: it is no number of tokens, or its unit was forgotten.
    """
    tokens = TOKENS(text, where)
    if tokens < 1e6:
        raise ConfigError(
            f"{where} = {text!r}: {tokens:g} tokens are no training run; write a unit, as in '35T' or '2B'"
        )
    return tokens


def usual_course(shape: Shape, tokens: float, sequence: int = 0) -> Course:
    """So many tokens in the stages that a model had, or all of them in sequences of one length.

    Args:
        shape: the model.
        tokens: of the whole run.
        sequence: of all of them; 0 leaves it to what is known of the model.
    """
    if sequence:
        return Course((Leg(sequence, tokens),), f"all tokens in sequences of {sequence:,}, as given")
    known = _courses().get(shape.name)
    if known is None:
        usual = min(shape.context or USUAL, USUAL)
        return Course(
            (Leg(usual, tokens),), f"one stage, sequences of {usual:,} tokens: none are known for {shape.name}"
        )
    whole = sum(entry["share"] for entry in known["stages"])
    legs = tuple(
        Leg(context(entry["sequence"], f"courses.toml: {shape.name}"), tokens * entry["share"] / whole)
        for entry in known["stages"]
    )
    shares = ", ".join(f"{100 * leg.tokens / tokens:.1f} % at {leg.name}" for leg in legs)
    return Course(legs, f"stages of {shape.name} ({shares}): shares are guessed ({known['source']})")


def usual_batch(shape: Shape, legs: Sequence[Leg]) -> tuple[float, str]:
    """Tokens of a step where none are given, and why so many.

    The best batch grows with the compute C of a run as 0.292 C^0.3271 tokens, and is broad: arXiv 2401.02954 section
    3.1, equation 1, with C from the operations of a token, attention included. Large runs round up, to a power of two.
    """
    compute = sum(3 * flops(shape, leg.sequence).total() * leg.tokens for leg in legs)
    best = 0.292 * compute**0.3271
    tokens = 2.0 ** ceil(log2(best))
    return tokens, (
        f"the power of two above {best / 1e6:.1f}M, the best batch for C = {compute:.1e} FLOP by 0.292 C^0.3271 (arXiv "
        "2401.02954, section 3.1); give --batch for another"
    )


def _courses() -> dict[str, Any]:
    with resources.as_file(resources.files("homegrown.plan") / "data" / "courses.toml") as path:
        return read_toml(Path(path))
