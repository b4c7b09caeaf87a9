"""Decoding with and without the draft head of a trained model: random weights accept no drafts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from homegrown.bench.speed.contest import Contestant
from homegrown.bench.speed.models import Subject
from homegrown.bench.speed.record import OURS
from homegrown.generate.decode import PREFILL_CHUNK, decode
from homegrown.generate.sampling import Sampler, SamplingConfig
from homegrown.generate.speculate import Acceptance, speculate
from homegrown.model import Longcat

TOKENS = 64
"""Made in a turn."""
PROMPT = "def read(path):\n"


def drafting(who: Subject, models: dict[str, Longcat], text: str) -> list[Contestant]:
    """Greedy decoding of the same text, plain and speculating, as `homegrown generate` does it, in each precision.

    Both make the same tokens, the prompt's pass included; `extra` has the drafts that were accepted.
    """
    if who.model.mtp is None or who.tokenizer is None:
        return []
    prompt = [who.tokenizer.bos_id, *who.tokenizer.encode(text)]
    made = []
    for mode, model in models.items():
        acceptance = Acceptance()
        _exhaust(speculate(model, prompt, TOKENS, PREFILL_CHUNK, acceptance))
        extra = {
            "acceptance": acceptance.accepted / max(acceptance.drafted, 1),
            "tokens_per_pass": 1 + acceptance.accepted / max(acceptance.passes.total(), 1),
        }
        made.append(_turn(f"{mode}, plain", partial(_plain, model, prompt), {}))
        made.append(_turn(f"{mode}, speculating", partial(_speculating, model, prompt), extra))
    return made


def _turn(mode: str, run: Callable[[], None], extra: dict[str, float]) -> Contestant:
    return Contestant(
        case=f"{TOKENS} tokens of text",
        sizes={"tokens": TOKENS},
        implementation=OURS,
        mode=mode,
        run=run,
        units=TOKENS,
        tokens=1,
        extra=extra,
    )


def _plain(model: Longcat, prompt: Sequence[int]) -> None:
    _exhaust(decode(model, prompt, Sampler(SamplingConfig(temperature=0.0)), TOKENS, PREFILL_CHUNK))


def _speculating(model: Longcat, prompt: Sequence[int]) -> None:
    _exhaust(speculate(model, prompt, TOKENS, PREFILL_CHUNK))


def _exhaust(tokens: Iterable[int]) -> None:
    deque(tokens, maxlen=0)
