"""Texts from a model: tokens, what they read as, and where they end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from homegrown.generate.decode import PREFILL_CHUNK, decode
from homegrown.generate.errors import GenerateError
from homegrown.generate.sampling import Sampler, SamplingConfig
from homegrown.generate.speculate import Acceptance, speculate
from homegrown.generate.stopping import StopTexts
from homegrown.model import Longcat
from homegrown.tokenizer import Tokenizer

Finish = Literal["stop", "length"]
"""Why a text ended: at a stop text, stop token or end of sequence; or because it reached the most tokens allowed."""


@dataclass(frozen=True)
class Piece:
    """One more token.

    Attributes:
        token: its id.
        text: the text that is now certain: often this token's; empty while a character or a stop text may be
            incomplete; then several tokens' at once.
        finish: why the text ends here, on the last piece only.
    """

    token: int
    text: str
    finish: Finish | None


class Generation(Iterator[Piece]):
    """A text in the making: iterate to make it.

    Attributes:
        prompt: token ids of the prompt.
        tokens: token ids so far, stop tokens included.
        acceptance: how drafting went; `None` without speculation.
    """

    def __init__(self, prompt: list[int], pieces: Iterator[Piece], acceptance: Acceptance | None) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self.acceptance = acceptance
        self._pieces = pieces

    def __next__(self) -> Piece:
        piece = next(self._pieces)
        self.tokens.append(piece.token)
        return piece


def generate(
    model: Longcat,
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    sampling: SamplingConfig,
    *,
    speculative: bool = False,
    chunk: int = PREFILL_CHUNK,
) -> Generation:
    """Continue a prompt.

    Args:
        model: what writes.
        tokenizer: `None` makes pieces without text; the prompt must then be token ids.
        prompt: text, before which the beginning-of-sequence token is put, or token ids, taken as they are.
        sampling: how tokens are chosen and when to end. The text also ends when the model's longest context is full.
        speculative: let the draft head propose tokens. The text is exactly that of greedy decoding, in fewer passes.
        chunk: prompt tokens in one pass. Other chunks may round differently.

    Returns:
        An iterator of pieces, the last of which says why it is the last.

    Raises:
        GenerateError: the request cannot be carried out. Raised here, before anything runs.
    """
    ids = _prompt_ids(model, tokenizer, prompt)
    limit = min(sampling.max_tokens, model.config.max_position_embeddings - len(ids))
    _check(model, tokenizer, sampling, speculative, chunk)
    acceptance = Acceptance() if speculative else None
    if acceptance is not None:
        tokens = speculate(model, ids, limit, chunk, acceptance)
    else:
        tokens = decode(model, ids, Sampler(sampling), limit, chunk)
    ends = {model.config.eos_token_id, *sampling.stop_ids} | ({tokenizer.eos_id} if tokenizer else set())
    return Generation(ids, _pieces(tokens, tokenizer, StopTexts(sampling.stop), ends, limit), acceptance)


def complete(
    model: Longcat, tokenizer: Tokenizer, prompt: str | Sequence[int], sampling: SamplingConfig, **options: Any
) -> str:
    """The whole text that `generate` makes, without the prompt; `options` are those of `generate`."""
    return "".join(piece.text for piece in generate(model, tokenizer, prompt, sampling, **options))


def _prompt_ids(model: Longcat, tokenizer: Tokenizer | None, prompt: str | Sequence[int]) -> list[int]:
    if not isinstance(prompt, str):
        ids = list(prompt)
    elif tokenizer is not None:
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    else:
        raise GenerateError("a prompt of text needs a tokenizer; this model has none, so give token ids")
    if not ids:
        raise GenerateError("the prompt has no tokens; give at least one, such as the beginning-of-sequence token")
    vocab, longest = model.config.vocab_size, model.config.max_position_embeddings
    foreign = next((token for token in ids if not 0 <= token < vocab), None)
    if foreign is not None:
        raise GenerateError(f"the prompt holds token id {foreign}; the model's ids are 0 to {vocab - 1}")
    if len(ids) >= longest:
        raise GenerateError(
            f"the prompt has {len(ids)} tokens; the model's longest context is {longest}, one place of it for an answer"
        )
    return ids


def _check(
    model: Longcat, tokenizer: Tokenizer | None, sampling: SamplingConfig, speculative: bool, chunk: int
) -> None:
    if chunk < 1:
        raise GenerateError(f"chunk = {chunk}: must be at least 1")
    if sampling.stop and tokenizer is None:
        raise GenerateError("stop texts need a tokenizer; this model has none, so end at stop_ids instead")
    if speculative and sampling.temperature > 0:
        raise GenerateError(
            f"temperature = {sampling.temperature}: speculation is for greedy decoding, temperature = 0"
        )
    if speculative and model.mtp is None:
        raise GenerateError("this model has no draft head (model.mtp.layers = 0): generate without speculation")


def _pieces(
    tokens: Iterator[int], tokenizer: Tokenizer | None, stops: StopTexts, ends: set[int], limit: int
) -> Iterator[Piece]:
    """Tokens with what they read as, up to where the text ends."""
    stream = tokenizer.stream(skip_special=True) if tokenizer else None
    for number, token in enumerate(tokens, 1):
        ended = token in ends
        text = stops.push(stream.push(token)) if stream and not ended else ""
        finish: Finish | None = "stop" if ended or stops.hit else "length" if number == limit else None
        if finish and stream:
            text += stops.push(stream.flush()) + stops.flush()
        yield Piece(token, text, finish)
        if finish:
            return
