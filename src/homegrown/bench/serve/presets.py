"""Named scenarios: loads with an intent."""

from __future__ import annotations

from dataclasses import dataclass

from homegrown.bench.serve.load import Load
from homegrown.bench.serve.target import Api


@dataclass(frozen=True)
class Scenario:
    """A load, the API it is usual for, and what it shows."""

    load: Load
    api: Api
    summary: str


SCENARIOS = {
    "steady": Scenario(
        Load(requests=64, concurrency=8, input="128", output="64"),
        "completions",
        "8 requests at a time, all of the same length: throughput, and the load for comparisons with peers",
    ),
    "chat": Scenario(
        Load(requests=100, rate=1.0, input="lognormal:128:0.8:1024", output="lognormal:64:0.6:256"),
        "chat",
        "people: random arrivals, lengths of all kinds",
    ),
    "prefix": Scenario(
        Load(requests=40, concurrency=1, prefixes=2, prefix=1024, input="16,64,128,256,512", output="4", cold=True),
        "completions",
        "prompts that share a long beginning, each also with a beginning of its own: TTFT against the new part",
    ),
    "agent": Scenario(
        Load(
            requests=8, concurrency=4, prefixes=1, prefix=1024, input="64-192", turns="8", tool="32-256",
            output="24-64", pause=0.5,
        ),
        "chat",
        "coding agents: a shared system prompt, then tool results and answers, one on top of the other",
    ),
    "long": Scenario(
        Load(requests=1, concurrency=4, input="64", output="96", long=100_000, long_after=15.0),
        "completions",
        "one very long prompt while short streams go on: their pace before, during and after",
    ),
    "burst": Scenario(
        Load(requests=128, rate=2.0, burst=32, input="32-256", output="16-64"),
        "completions",
        "32 at once, again and again: waiting, refusals, goodput",
    ),
}  # fmt: skip
"""By name."""
