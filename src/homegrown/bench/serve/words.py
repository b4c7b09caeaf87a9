"""Random texts of an exact number of tokens."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from homegrown.config import UserError

_WORD = re.compile(r" [a-z]{3,12}")
_FEWEST = 200
"""With fewer words, random texts would be too much alike."""

_COMMON = (
    "about above across action after again almost also always among another answer area around become before begin "
    "behind below better between body book bring build business call carry case cause change child city close come "
    "common could country course cover day different door draw during each early earth end enough every example eye "
    "face fact family farm father feel field figure find fire first follow food form friend from game give good "
    "great ground group grow half hand hard have head hear help here high hold home horse hour house idea inch "
    "island just keep kind king know land language large last late laugh learn leave letter life light like line "
    "list listen little live long look machine make many mark mean might mile money moon more morning mother "
    "mountain move music name near need never next night notice noun number often once only open order other page "
    "paper part pass people person picture piece place plain plan plant play point power problem product pull "
    "question quick rain reach read ready real record remember rest right river road rock room round rule same "
    "school science second seem sentence serve several shape ship short show side simple since sleep slow small "
    "snow some song soon sound south special stand star start state stay step still stone stop story street strong "
    "study such sun surface system table take talk teach tell test than that their them then there these thing "
    "think this thought three time together town travel tree true turn under unit until usual very voice walk want "
    "warm watch water week well went were west what wheel when where which while white whole will wind with wonder "
    "wood word work world would write year young"
)


@dataclass(frozen=True)
class Words:
    """A list of words to make texts of.

    Attributes:
        words: each with a space before it.
        exact: each is one token, in any text made of them.
        source: where they come from, for the record.
    """

    words: Sequence[str]
    exact: bool
    source: str

    def text(self, tokens: int, rng: random.Random) -> str:
        """Random words: so many, which is so many tokens if `exact`."""
        return "".join(rng.choices(self.words, k=tokens))

    @classmethod
    def of(cls, folder: Path) -> Words:
        """The words that are single tokens of the tokenizer in a model's directory.

        Raises:
            UserError: there is no tokenizer.json, or it has too few such words.
        """
        path = folder / "tokenizer.json"
        if not path.exists():
            raise UserError(f"{path}: does not exist; --tokenizer names the directory of the served model")
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        ids = range(tokenizer.get_vocab_size())
        texts = {token: tokenizer.decode([token], skip_special_tokens=False) for token in ids}
        known = [token for token, text in texts.items() if _WORD.fullmatch(text)]
        joined = tokenizer.encode("".join(texts[token] for token in known), add_special_tokens=False).ids
        if joined != known:  # a tokenizer that merges across words, or drops spaces: keep those that stay themselves
            known = [token for token in known if _stays(tokenizer, texts[token], token)]
        if len(known) < _FEWEST:
            raise UserError(
                f"{path}: only {len(known)} tokens are words with a space before them, too few to make texts of an "
                "exact length; leave --tokenizer out, and lengths will be in words"
            )
        return cls(sorted(texts[token] for token in known), exact=True, source=str(path))

    @classmethod
    def common(cls) -> Words:
        """Common English words, mostly one token each: for a server whose tokenizer is not at hand."""
        return cls([f" {word}" for word in _COMMON.split()], exact=False, source="common English words")


def _stays(tokenizer: tokenizers.Tokenizer, text: str, token: int) -> bool:
    return list(tokenizer.encode(text * 3, add_special_tokens=False).ids) == [token] * 3
