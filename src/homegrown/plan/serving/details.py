"""What a plan shows beside its figures: where the time and the memory go, and prompts by length."""

from __future__ import annotations

from homegrown.plan.serving.capacity import capacity
from homegrown.plan.serving.prefill import Prefill
from homegrown.plan.serving.search import Served, decoding
from homegrown.plan.serving.setup import Pool

LENGTHS = 9
"""Prompts that are timed alone."""
SHORTEST = 1024.0
"""Tokens of the shortest of them."""


def decode_split(served: Served, pool: Pool, batch: float) -> dict[str, float]:
    """Seconds of a decode step by part, those that are none left out."""
    return _kept(decoding(served, pool)[0].parts(batch))


def prefill_split(served: Served, pool: Pool) -> dict[str, float]:
    """Seconds of a full chunk by part, of the kind of request that has the most tokens to compute."""
    kind = max(served.traffic.mix, key=lambda kind: kind.share * kind.missed)
    return _kept(Prefill(served.clock, served.shape, pool, served.precision, served.spread).split(kind))


def memory_split(served: Served, pool: Pool, *, batch: float = 0.0) -> dict[str, float]:
    """Bytes on a device by component; keys are those of a full batch, or of the longest prompt.

    What is left is split into what the runtime has for itself, what the plan does not use, and room for more keys.
    """
    drafting = batch > 0 and served.speculation.steps > 0
    clock = served.clock
    found = capacity(clock.machine, clock.constants, served.shape, pool, served.precision, drafting)
    contexts = served.traffic.decoding(served.spread)
    tokens = (
        batch * sum(share * keys for share, keys in contexts)
        if batch
        else max(kind.input for kind in served.traffic.mix)
    )
    keys = min(tokens * found.token, found.room)
    parts = {**found.weights, "keys": keys, "room for keys": found.room - keys}
    parts["runtime"] = clock.constants.runtime_reserve
    parts["kept free"] = clock.machine.memory - sum(parts.values())
    return {name: max(size, 0.0) for name, size in parts.items()}


def prompts(served: Served, pool: Pool, longest: float) -> tuple[tuple[float, float], ...]:
    """Lengths of prompts, and the seconds that each takes alone with nothing of it found."""
    prefill = Prefill(served.clock, served.shape, pool, served.precision)
    last = max(longest, 4 * SHORTEST)
    lengths = (SHORTEST * (last / SHORTEST) ** (step / (LENGTHS - 1)) for step in range(LENGTHS))
    return tuple((length, prefill.prompt(length)) for length in map(round, lengths))


def _kept(parts: dict[str, float]) -> dict[str, float]:
    return {name: seconds for name, seconds in parts.items() if seconds > 0}
