"""Prefill: seconds of a prompt, chunk by chunk, and of many prompts that fill a pool."""

from __future__ import annotations

import math
from dataclasses import dataclass

from homegrown.plan.facts import Shape
from homegrown.plan.serving.clock import Clock
from homegrown.plan.serving.layer import Pass, Span
from homegrown.plan.serving.passes import pass_parts
from homegrown.plan.serving.setup import Pool, Precision, Requests, Traffic

SAMPLES = 9
"""Chunks of a long prompt that are timed; between them seconds are linear in the position but for a few kinks."""


@dataclass(frozen=True)
class Prefill:
    """A pool that computes prompts, in one world.

    Attributes:
        uneven: deviation over mean of prompts' lengths, found and missed parts alike.
    """

    clock: Clock
    shape: Shape
    pool: Pool
    precision: Precision
    uneven: float = 0.0

    def chunk(self, spans: list[Span]) -> dict[str, float]:
        """Seconds by part of one pass over the spans of a chunk."""
        large = sum(span.rows for span in spans) / self.pool.tp >= self.pool.chunk / self.pool.tp / 2
        sending = self.pool.exchange == "dispatch" and self.pool.overlap and self.pool.experts_over > 1
        units = 1 - self.clock.constants.dispatch_units if sending and large else 1.0
        parts = pass_parts(self.clock, Pass(self.shape, self.pool, self.precision, spans, self.uneven, units))
        parts["overhead"] = self.clock.constants.step_overhead
        return parts

    def at(self, position: float, tokens: float, stretch: float = 1.0) -> float:
        """Seconds of so many tokens of a prompt that come behind `position` others."""
        return sum(self.chunk([_span(1.0, tokens, position, stretch)]).values())

    def prompt(self, tokens: float, found: float = 0.0, stretch: float = 1.0) -> float:
        """Seconds until a prompt is computed alone, behind `found` tokens whose keys are there."""
        chunk = float(self.pool.chunk)
        missed = tokens - found
        whole = math.floor(missed / chunk)
        seconds = self.at(found + whole * chunk, missed - whole * chunk, stretch) if missed > whole * chunk else 0.0
        if whole <= SAMPLES:
            return seconds + sum(self.at(found + index * chunk, chunk, stretch) for index in range(whole))
        # The first chunk sees the fewest keys; from the second on seconds are summed by trapezia over the timed ones.
        places = [1 + round(index * (whole - 2) / (SAMPLES - 1)) for index in range(SAMPLES)]
        times = [self.at(found + place * chunk, chunk, stretch) for place in places]
        for left, right, low, high in zip(places, places[1:], times, times[1:], strict=False):
            seconds += (right - left) * (low + high) / 2
        return seconds + self.at(found, chunk, stretch) + (times[0] + times[-1]) / 2

    def line(self, far: float) -> tuple[float, float]:
        """a and b of a token's seconds a + b x at position x, from chunks near a tenth of `far` and at its end."""
        chunk = float(self.pool.chunk)
        near, end = max(far / 10, chunk), max(far - chunk, 2 * chunk)
        first, last = self.at(near, chunk) / chunk, self.at(end, chunk) / chunk
        slope = (last - first) / (end - near)
        return first - slope * (near + chunk / 2), slope

    def request(self, kind: Requests) -> float:
        """Seconds of a group's time that a request takes when chunks are always full.

        Tokens of long prompts see more keys and are more: the keys that a token sees grow by 1 + the square of the
        lengths' deviation over mean.
        """
        found, chunk, stretch = kind.input * kind.hit_rate, float(self.pool.chunk), 1 + self.uneven**2
        if kind.missed >= chunk:
            return self.prompt(kind.input, found, stretch)
        together = chunk / kind.missed
        return sum(self.chunk([_span(together, kind.missed, found, stretch)]).values()) / together

    def service(self, traffic: Traffic) -> float:
        """The same of the mean request of a mix."""
        whole = sum(kind.share for kind in traffic.mix)
        return sum(kind.share * self.request(kind) for kind in traffic.mix) / whole

    def split(self, kind: Requests) -> dict[str, float]:
        """Seconds by part of a full chunk of such requests, in the middle of their prompts."""
        found, chunk, stretch = kind.input * kind.hit_rate, float(self.pool.chunk), 1 + self.uneven**2
        if kind.missed >= chunk:
            return self.chunk([_span(1.0, chunk, found + max(kind.missed - chunk, 0.0) / 2, stretch)])
        return self.chunk([_span(chunk / kind.missed, kind.missed, found, stretch)])


def _span(requests: float, tokens: float, past: float, stretch: float) -> Span:
    return Span(requests, tokens, (past + (tokens + 1) / 2) * stretch, past)


def waiting(use: float, service: float, deviation: float, servers: float) -> float:
    """Mean seconds that a request waits for one of so many servers of which a share is busy.

    Allen and Cunneen's approximation of M/G/m, with Sakasegawa's exponent (1977): (1 + C^2)/2 times
    u^(sqrt(2 (m + 1)) - 1) / (m (1 - u)) services.
    """
    busy = use ** (math.sqrt(2 * (servers + 1)) - 1) / (servers * (1 - use))
    return (1 + deviation**2) / 2 * busy * service


def usable(bound: float, least: float, service: float, deviation: float, servers: float, most: float) -> float:
    """The largest share of a pool's time, at most `most`, at which requests start within the bound; 0 if none does.

    Args:
        bound: seconds to the first token; 0, any.
        least: seconds of those without waiting.
    """
    if not bound or least + waiting(most, service, deviation, servers) <= bound:
        return most
    if least >= bound:
        return 0.0
    low, high = 0.0, most
    for _ in range(30):
        middle = (low + high) / 2
        if least + waiting(middle, service, deviation, servers) <= bound:
            low = middle
        else:
            high = middle
    return low
