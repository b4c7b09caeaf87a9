"""What crosses the engine's border: plain data, no tensors, so that an engine may live in another process."""

from __future__ import annotations

from typing import Literal

import msgspec

Finish = Literal["stop", "length", "abort", "error"]
"""Why tokens end: an end or stop token; the most tokens, or the longest context; the client left; the engine failed."""


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer must look like.

    Attributes:
        lark: a grammar in llguidance's dialect of Lark; special tokens are written as `<name>`.
        after: the grammar begins behind this token (the one that closes thinking); negative: at the first token.
    """

    lark: str
    after: int = -1


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen and when they end. Checked by `serve.checks`, not here."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Both count the tokens of the answer, as in the OpenAI API."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or answer, as in `transformers`."""
    logit_bias: dict[int, float] = {}
    seed: int = 0
    """The same seed, prompt and settings give the same tokens (in batch-invariant mode, whatever else runs)."""
    min_tokens: int = 0
    """No end or stop token before so many."""
    stop_ids: tuple[int, ...] = ()
    """End at one of these, as at the end-of-sequence token, which always ends unless `ignore_eos`."""
    ignore_eos: bool = False
    logprobs: int = -1
    """So many likeliest alternatives with each token; 0: only the token's own; -1: none."""
    prompt_logprobs: int = -1
    """The same for every token of the prompt."""
    grammar: Grammar | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One text to make. A request for several answers is several of these.

    Attributes:
        id: unique among the requests in the engine.
        prompt: token ids, at least one.
        sampling: how it goes on.
        tenant: whose it is: fairness is between these.
        priority: higher first.
        salt: prompts share cached keys only under the same salt.
        arrived: `time.time()` when the client's request came.
    """

    id: str
    prompt: list[int]
    sampling: Sampling
    tenant: str = ""
    priority: int = 0
    salt: str = ""
    arrived: float = 0.0


class TokenScore(msgspec.Struct, frozen=True):
    """A token's log probability under the model (after temperature 1, before any penalty) and the likeliest tokens."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token, logprob), likeliest first."""


class Usage(msgspec.Struct, kw_only=True):
    """What a request took.

    Attributes:
        prompt_tokens, completion_tokens: all of them; stop and end tokens count.
        cached_tokens: of the prompt, those whose keys were found in the prefix cache.
        drafted, accepted: tokens proposed by the draft head, and those of them that were taken.
        queue_s, prefill_s, decode_s: from arrival to the first pass, to the first token, to the last.
        preempted: how often it had to make room.
        transferred: tokens of the prompt whose keys another process computed and sent.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    preempted: int = 0
    transferred: int = 0


class Output(msgspec.Struct, kw_only=True):
    """What one step made of a request: some new tokens, often one.

    Attributes:
        id: of the request.
        tokens: new ones, an end or stop token included.
        scores: one per token, if they were asked for.
        prompt_scores: one per prompt token, `None` first, with the first output if they were asked for.
        compute: real (not zero-computation) experts that each of `tokens` was given, averaged over layers.
        finish: on the last output only.
        usage: on the first and on the last output.
        error: on the last one, if `finish` is `error`: a sentence for the client.
    """

    id: str
    tokens: list[int] = []
    scores: list[TokenScore] | None = None
    prompt_scores: list[TokenScore | None] | None = None
    compute: list[float] | None = None
    finish: Finish | None = None
    usage: Usage | None = None
    error: str = ""


class Stats(msgspec.Struct, kw_only=True):
    """How an engine is doing; counters only grow.

    Attributes:
        running, waiting, swapped: requests.
        waiting_tokens: prompt tokens that wait to be computed.
        pages, pages_used, pages_cached: of the key cache; cached ones are kept for prompts to come, until needed.
        host_pages_used: of the swap space.
        steps, prefill_tokens, decode_tokens, cached_tokens, prompt_tokens, drafted, accepted, preempted, finished: all
            so far.
        transferred: prompt tokens whose keys another process computed and sent.
        lost: prompts that another process was to compute and did not, so that they were computed here.
        helpers: other processes that compute prompts for this engine, and can be reached.
        step_s: a typical step's seconds, lately.
        prefill_rate: prompt tokens a second, lately; 0 while unknown.
    """

    running: int = 0
    waiting: int = 0
    swapped: int = 0
    waiting_tokens: int = 0
    pages: int = 0
    pages_used: int = 0
    pages_cached: int = 0
    host_pages_used: int = 0
    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    preempted: int = 0
    finished: int = 0
    transferred: int = 0
    lost: int = 0
    helpers: int = 0
    step_s: float = 0.0
    prefill_rate: float = 0.0
