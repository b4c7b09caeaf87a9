"""Decoding: steps of one token for each of several sequences, behind contexts of several lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    paths_taken,
    peer_dtype,
    peers,
    require_agreement,
    subject,
)  # fmt: skip
from homegrown.bench.speed.record import OURS, SCHEMA, SpeedRecord
from homegrown.bench.speed.sequences import Alone, Keys, PeerBatch, Served, experts_chosen
from homegrown.bench.speed.speculation import PROMPT, drafting
from homegrown.bench.speed.work import FORMULA, Chosen, decode_work, weights_of
from homegrown.config import to_table
from homegrown.model import Longcat, count


@dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """What to measure.

    Attributes:
        shape: of a random model; ignored where `model` names a directory.
        model: a directory.
        batches, contexts: every batch with every context.
        most_keys: cases with more keys, of all sequences together, are left out.
        precisions: of ours.
        peer, compiled: measure the peer; its compiled modes, too.
        peer_keys: the peer is left out of cases with more keys than this, which take it minutes.
        prompt: of the text that is made with and without drafts, where a trained model has a draft head.
        steps: of a turn.
        repetitions, warmup: rounds.
        seed: of weights, keys and tokens.
    """

    shape: str = "tiny"
    model: Path | None = None
    batches: tuple[int, ...] = (1, 8, 32)
    contexts: tuple[int, ...] = (128, 4096)
    most_keys: int = 1 << 20
    precisions: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
    peer: bool = True
    compiled: bool = False
    peer_keys: int = 4096
    prompt: str = PROMPT
    steps: int = 8
    repetitions: int = 5
    warmup: int = 1
    seed: int = 0

    @property
    def cases(self) -> list[tuple[int, int]]:
        """Batch and context of each."""
        pairs = [(batch, context) for context in self.contexts for batch in self.batches]
        return [(batch, context) for batch, context in pairs if batch * context <= self.most_keys]

    def has_peer(self, batch: int, context: int) -> bool:
        """Whether the peer is measured in a case."""
        return self.peer and batch * context <= self.peer_keys


Decoder = Alone | Served | PeerBatch


def run_decode(
    plan: DecodePlan,
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
    longest = max(plan.contexts) + plan.steps + 1
    who = subject(plan.shape, plan.model, device, longest, plan.seed)
    models = ours(who.model, plan.precisions)
    others = peers(who.model, plan.compiled) if any(plan.has_peer(*case) for case in plan.cases) else {}
    keys = Keys(models, plan.cases, plan.steps, plan.seed)
    made: list[Contestant] = []
    used: Chosen | None = None
    for batch, context in plan.cases:
        reference = Served(who.model, keys, batch, context)
        right, routed = reference.logits(), experts_chosen(who.model, keys, batch, context)
        used = used or routed
        made += _contestants(
            plan, who, models, others if plan.has_peer(batch, context) else {}, reference, right, routed
        )
    drafts = drafting(who, models, plan.prompt) if who.trained else []
    limits = limits or Limits(device)
    outcome = contest([*made, *drafts], limits, device, plan.warmup, plan.repetitions, tick)
    counted = count(who.config)
    return SpeedRecord(
        kind="decode",
        schema=SCHEMA,
        origin=origin(device, argv, keeps_memory, [PEER] if others else []),
        shape={
            "name": who.name,
            "model": to_table(who.config),
            "parameters": {"total": counted.total, "active": round(counted.active(used.per_token)) if used else 0},
            "steps": plan.steps,
        },
        limits=outcome.limits,
        order=list(outcome.order),
        warmup=plan.warmup,
        repetitions=plan.repetitions,
        entries=outcome.entries,
        versus=outcome.versus,
        ran=paths_taken(models),
        formula=FORMULA,
        notes=[
            "the keys of the context are random numbers, the same for all, so that no prompt need be computed; "
            "each sequence has its own",
            "served: the engine's pass over pages of keys (Runner.forward) and the choice of the highest logit; alone: "
            "a step of `homegrown generate`; scheduling and HTTP are not in them (bench serve --overhead)",
            "where weights fit into the processor's cache they are read faster than the floor says",
            "the peer: a call of its model on a batch of one length and a DynamicCache, which its `generate` makes too",
        ],
    )


def count_decode(plan: DecodePlan) -> int:
    """How often `run_decode` calls its `tick`, drafting left out."""
    alone = [batch for batch, _ in plan.cases if batch == 1]
    others = [case for case in plan.cases if plan.has_peer(*case)]
    number = (len(plan.cases) + len(alone)) * len(plan.precisions) + len(others) * 2 * (1 + plan.compiled)
    return 1 + (number + 3) * (plan.warmup + plan.repetitions)


def _contestants(
    plan: DecodePlan,
    who: Subject,
    models: dict[str, Longcat],
    others: dict[str, Callable[..., Any]],
    reference: Served,
    right: Tensor,
    used: Chosen,
) -> list[Contestant]:
    batch, context, keys = reference.batch, reference.context, reference.keys
    ways: list[tuple[str, str, Decoder, Longcat, torch.dtype]] = []
    for mode, model in models.items():
        ways.append((OURS, f"{mode}, served", Served(model, keys, batch, context), model, model.dtype))
        if batch == 1:
            ways.append((OURS, f"{mode}, alone", Alone(model, keys, context), model, model.dtype))
    alike = {name_of(model.dtype): model for mode, model in models.items() if mode != "int8"}
    for mode, call in others.items():
        dtype = peer_dtype(mode)
        decoder = PeerBatch(call, who.model, keys, batch, context, dtype)
        ways.append((PEER, mode, decoder, alike.get(name_of(dtype), who.model), dtype))
    return [_contestant(plan, who, way, batch, context, right, used) for way in ways]


def _contestant(
    plan: DecodePlan,
    who: Subject,
    way: tuple[str, str, Decoder, Longcat, torch.dtype],
    batch: int,
    context: int,
    right: Tensor,
    used: Chosen,
) -> Contestant:
    implementation, mode, decoder, model, dtype = way
    case = f"batch {batch}, context {context:,}"
    apart = difference(decoder.logits(), right)
    if implementation == PEER and mode == "float32":
        require_agreement(apart, case)
    work = decode_work(who.config, weights_of(model), batch, context + plan.steps // 2, used, dtype)
    return Contestant(
        case=case,
        sizes={"batch": batch, "context": context},
        implementation=implementation,
        mode=mode,
        run=lambda: decoder.steps(plan.steps),
        units=plan.steps,
        tokens=batch,
        flops=work.flops,
        bytes=work.bytes,
        dtype=dtype,
        difference=apart,
    )
