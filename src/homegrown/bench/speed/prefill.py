"""Prompts of several lengths, computed from nothing to the logits of their last token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homegrown.bench.interleave import Tick
from homegrown.bench.peer import PEER
from homegrown.bench.record import origin
from homegrown.bench.speed.contest import Contestant, contest
from homegrown.bench.speed.limits import Limits, name_of
from homegrown.bench.speed.models import (
    Precision,
    Subject,
    difference,
    ours,
    peer_dtype,
    peers,
    random_tokens,
    require_agreement,
    subject,
)  # fmt: skip
from homegrown.bench.speed.record import OURS, SCHEMA, SpeedRecord
from homegrown.bench.speed.work import FORMULA, Chosen, chosen, joined, prefill_work, weights_of
from homegrown.config import to_table
from homegrown.generate.decode import PREFILL_CHUNK, empty_cache, last_logits, prefill
from homegrown.model import Longcat, count


@dataclass(frozen=True, kw_only=True)
class PrefillPlan:
    """What to measure.

    Attributes:
        shape: of a random model; ignored where `model` names a directory.
        model: a directory.
        tokens: lengths of the prompts.
        precisions: of ours.
        chunk: prompt tokens in one pass.
        peer, compiled: measure the peer; its compiled modes, too.
        repetitions, warmup: rounds.
        seed: of weights and tokens.
    """

    shape: str = "tiny"
    model: Path | None = None
    tokens: tuple[int, ...] = (512, 2048, 4096)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    chunk: int = PREFILL_CHUNK
    peer: bool = True
    compiled: bool = False
    repetitions: int = 3
    warmup: int = 1
    seed: int = 0


def run_prefill(
    plan: PrefillPlan,
    device: torch.device,
    argv: Sequence[str] = (),
    tick: Tick = lambda label: None,
    keeps_memory: bool = False,
    limits: Limits | None = None,
) -> SpeedRecord:
    """Measure.

    Raises:
        MismatchError: the peer computes something else.
        UserError: the peer is not installed, or does not compute this architecture.
    """
    tick("setting up")
    who = subject(plan.shape, plan.model, device, max(plan.tokens), plan.seed)
    models = ours(who.model, plan.precisions)
    others = peers(who.model, plan.compiled) if plan.peer else {}
    made: list[Contestant] = []
    used: dict[int, Chosen] = {}
    for tokens in plan.tokens:
        prompt = random_tokens(who.config, 1, tokens, plan.seed).to(device)
        right, used[tokens] = _reference(who.model, prompt, plan.chunk)
        made += _contestants(who, models, others, prompt, plan.chunk, right, used[tokens])
    limits = limits or Limits(device)
    outcome = contest(made, limits, device, plan.warmup, plan.repetitions, tick)
    counted = count(who.config)
    return SpeedRecord(
        kind="prefill",
        schema=SCHEMA,
        origin=origin(device, argv, keeps_memory, [PEER] if others else []),
        shape={
            "name": who.name,
            "model": to_table(who.config),
            "parameters": {
                "total": counted.total,
                "active": round(counted.active(used[plan.tokens[0]].per_token)),
            },
            "chunk": plan.chunk,
        },
        limits=outcome.limits,
        order=list(outcome.order),
        warmup=plan.warmup,
        repetitions=plan.repetitions,
        entries=outcome.entries,
        versus=outcome.versus,
        formula=FORMULA,
    )


def count_prefill(plan: PrefillPlan) -> int:
    """How often `run_prefill` calls its `tick`."""
    modes = len(plan.precisions) + (2 * (1 + plan.compiled) if plan.peer else 0)
    return 1 + (len(plan.tokens) * modes + 3) * (plan.warmup + plan.repetitions)


def through(model: Longcat, prompt: Tensor, chunk: int) -> Tensor:
    """Logits [V] behind a prompt, int64 [1, S], by way of `homegrown generate`."""
    cache = empty_cache(model, prompt.shape[1])
    for trunk in prefill(model, cache, prompt, chunk):
        last = trunk
    return last_logits(model, last.output)


def _reference(model: Longcat, prompt: Tensor, chunk: int) -> tuple[Tensor, Chosen]:
    """Logits in float32, and the experts of the whole prompt."""
    cache = empty_cache(model, prompt.shape[1])
    routing, output = [], prompt
    for trunk in prefill(model, cache, prompt, chunk):
        routing.append(trunk.routing)
        output = trunk.output
    return last_logits(model, output), chosen(model.config, joined(routing))


def _contestants(
    who: Subject,
    models: dict[str, Longcat],
    others: dict[str, Callable[..., Any]],
    prompt: Tensor,
    chunk: int,
    right: Tensor,
    used: Chosen,
) -> list[Contestant]:
    tokens = prompt.shape[1]
    case = f"{tokens:,} tokens"
    ways: list[tuple[str, str, Callable[[], Tensor], torch.dtype, Longcat]] = [
        (OURS, mode, partial(through, model, prompt, chunk), model.dtype, model) for mode, model in models.items()
    ]
    alike = {name_of(model.dtype): model for mode, model in models.items() if mode != "int8"}
    ways += [
        (PEER, mode, partial(_peer_logits, call, prompt), peer_dtype(mode), alike.get(mode.split(",")[0], who.model))
        for mode, call in others.items()
    ]
    made = []
    for implementation, mode, run, dtype, model in ways:
        apart = difference(run(), right)
        if implementation == PEER and mode == "float32":
            require_agreement(apart, case)
        work = prefill_work(who.config, weights_of(model), tokens, used)
        made.append(
            Contestant(
                case=case, sizes={"tokens": tokens}, implementation=implementation, mode=mode, run=run, tokens=tokens,
                flops=work.flops, bytes=work.bytes, dtype=dtype, difference=apart,
            )
        )  # fmt: skip
    return made


@torch.inference_mode()
def _peer_logits(call: Callable[..., Any], prompt: Tensor) -> Tensor:
    logits: Tensor = call(input_ids=prompt, use_cache=True, logits_to_keep=1).logits
    return logits[0, -1]
