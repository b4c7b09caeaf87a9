"""One request as its client saw it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(kw_only=True)
class Outcome:
    """What became of a request. Times are seconds since the run began.

    Attributes:
        session, turn: which of the load's, counted from 0.
        group: what the load calls this kind of request; figures are made for each.
        wanted: tokens asked for.
        due: when the load wanted it sent.
        sent: when it was.
        arrivals: when each piece of text came. Several tokens may make one piece: a speculating server sends what a
            step accepted together.
        sizes: tokens of each piece, where the server says so; else empty.
        ended: when the response was complete.
        prompt_tokens, completion_tokens, cached_tokens, accepted, rejected: as the server's usage says.
        usage: the server sent its usage. Without it, pieces are counted as tokens.
        finish: the server's word for why it ended.
        text: of the answer; reasoning is apart.
        error: the kind of failure, empty if there was none.
        message: what the server said of it.
    """

    session: int = 0
    turn: int = 0
    group: str = ""
    wanted: int = 0
    due: float = 0.0
    sent: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    ended: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    accepted: int = 0
    rejected: int = 0
    usage: bool = False
    finish: str = ""
    text: str = ""
    reasoning: str = ""
    error: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return not self.error

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return (self.arrivals[0] if self.arrivals else self.ended) - self.sent

    @property
    def latency(self) -> float:
        """Seconds to the last token."""
        return (self.arrivals[-1] if self.arrivals else self.ended) - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds per token behind the first; `None` if there is none."""
        return (self.latency - self.ttft) / (self.completion_tokens - 1) if self.completion_tokens > 1 else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece and the next."""
        return [after - before for before, after in pairwise(self.arrivals)]

    @property
    def token_gaps(self) -> list[tuple[float, float]]:
        """The same per token: (seconds, how many tokens), each gap spread evenly over the tokens that ended it.

        Where the server does not say how many tokens a piece has, all pieces count as equally large.
        """
        if len(self.arrivals) < 2:
            return []
        even = self.completion_tokens / len(self.arrivals)
        sizes = self.sizes if len(self.sizes) == len(self.arrivals) else [even] * len(self.arrivals)
        return [(gap / size, size) for gap, size in zip(self.gaps, sizes[1:], strict=True) if size > 0]
