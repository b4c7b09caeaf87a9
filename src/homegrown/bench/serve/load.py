"""The load that a server is put under, as data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from homegrown.bench.serve.lengths import Lengths
from homegrown.config import UsageError


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent, and when.

    A session is a request, or a conversation of several, each with all before it as its prompt.
    """

    requests: int = 64
    """Sessions."""
    rate: float = 0.0
    """Sessions that arrive a second, at random times (a Poisson process); 0: all at once."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the times between arrivals: 1 is Poisson, less is burstier, more is evener."""
    burst: int = 1
    """Sessions that arrive together; the rate still counts sessions."""
    concurrency: int = 0
    """Sessions under way at once, others wait on the client's side; 0: no bound. With rate 0 this is a closed loop."""
    input: str = "256"
    """Tokens of a prompt, without its prefix: 64 (always), 32-128 (evenly spread), 16,64,256 (in turn) or
    lognormal:64:0.6:512 (median, sigma of the logarithm, at most)."""
    output: str = "64"
    """Tokens of an answer, in the same notation."""
    prefixes: int = 0
    """Prefixes that the prompts share, in turn; each is sent once by itself first. 0: nothing is shared."""
    prefix: int = 512
    """Tokens of a shared prefix."""
    cold: bool = False
    """Send every prompt a second time with a prefix of its own, for comparison."""
    turns: str = "1"
    """Requests of a session, in the notation of lengths."""
    tool: str = "256"
    """Tokens that each later turn adds, as a tool's result."""
    pause: float = 0.0
    """Seconds that a tool takes: between an answer and the next turn of its session."""
    long: int = 0
    """Tokens of one long prompt, sent while the others run, who go on until it has been answered; 0: none."""
    long_after: float = 10.0
    """Seconds after which it is sent."""
    seed: int = 0
    """Of texts, lengths and times."""

    def check(self) -> None:
        """Raise `UsageError` if this is no load."""
        least = {"requests": 1, "burst": 1, "concurrency": 0, "prefixes": 0, "prefix": 1, "long": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(f"--{name} {getattr(self, name)}: must be at least {bound}")
        for name in ("rate", "pause", "long_after"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must not be negative")
        if self.burstiness <= 0:
            raise UsageError(f"--burstiness {self.burstiness}: must be above 0")
        if self.cold and not self.prefixes:
            raise UsageError("--cold: compares with shared prefixes, and there are none; add --prefixes 1")
        if self.long and (self.rate or not self.concurrency):
            raise UsageError("--long: the other requests must go on until it is answered; add --rate 0 --concurrency 4")

    def lengths(self, name: str) -> Lengths:
        """A field that holds lengths, read.

        Raises:
            UsageError: it is not one of the forms.
        """
        return Lengths.parse(getattr(self, name), f"--{name}")

    @property
    def longest(self) -> int:
        """Tokens of the longest session, prompt and answers, without what a chat template adds."""
        turns = self.lengths("turns").most
        answers = turns * self.lengths("output").most
        prompt = (self.prefix if self.prefixes else 0) + self.lengths("input").most
        return max(prompt + (turns - 1) * self.lengths("tool").most + answers, self.long + self.lengths("output").most)


def arrivals(load: Load, rng: random.Random) -> Iterator[float]:
    """When sessions arrive, in seconds from the beginning, without end."""
    now = 0.0
    while True:
        for _ in range(load.burst):
            yield now
        if load.rate:
            mean = load.burst / load.rate
            now += rng.gammavariate(load.burstiness, mean / load.burstiness)
