"""Whether there is room for one more request: asked before any work is done for it."""

from __future__ import annotations

from typing import Literal, NoReturn

from homegrown.serve.backend import Backend
from homegrown.serve.errors import ApiError
from homegrown.serve.http.metered import Answer, Listener
from homegrown.serve.messages import Stats

LONGEST_RETRY = 60.0
"""Seconds. Predictions farther ahead are worth little."""


class Admission(Listener):
    """A bounded queue whose bound is a time.

    Args:
        backend: does the work.
        max_waiting: requests that wait for their first token, at most; 0: any number.
        max_ttft: seconds after which a request's turn must have come, as predicted; 0: any.
        drain_s: what clients are told to wait while the server ends.

    Attributes:
        running: requests that were let in and are not over.
        draining: nothing is let in any more.
        refused: requests that were not let in, by reason.
    """

    def __init__(self, backend: Backend, max_waiting: int = 0, max_ttft: float = 0.0, drain_s: float = 30.0) -> None:
        self._backend, self._max_waiting, self._max_ttft, self._drain_s = backend, max_waiting, max_ttft, drain_s
        self._begun: set[str] = set()
        self._seen: Stats | None = None
        self._unseen = 0
        self.running = 0
        self.draining = False
        self.refused = {"draining": 0, "not_ready": 0, "queue_full": 0, "slow": 0}

    @property
    def waiting(self) -> int:
        """Requests that were let in and have no token yet."""
        return max(0, self.running - len(self._begun))

    def predicted_wait(self) -> float:
        """Seconds until a request that comes now has its turn: until the prompts before it are computed, as fast as
        prompts were lately. 0 while it is not known how fast that is."""
        stats = self._stats()
        tokens = stats.waiting_tokens + self._unseen
        if not tokens or not stats.prefill_rate:
            return 0.0
        return tokens / stats.prefill_rate + stats.step_s

    def enter(self) -> None:
        """Let a request in and count it; `leave` must follow.

        Raises:
            ApiError: there is no room.
        """
        self.check()
        self.running += 1

    def check(self) -> None:
        """See whether a request would be let in.

        Raises:
            ApiError: there is no room.
        """
        if self.draining:
            self._refuse(
                "draining", "unavailable", "the server is ending; ask another one, or again soon", self._drain_s
            )
        if self._backend.state != "ready":
            what = "is being loaded" if self._backend.state == "starting" else "is being started anew"
            self._refuse("not_ready", "unavailable", f"the model {what}; try again soon", 5.0)
        wait = self.predicted_wait()
        if self._max_waiting and self.waiting >= self._max_waiting:
            message = f"{self.waiting} requests wait already, the most that may"
            self._refuse("queue_full", "overloaded", message, max(1.0, wait / 2))
        if self._max_ttft and wait > self._max_ttft:
            message = (
                f"this request's turn would come in about {wait:.0f} s, later than the {self._max_ttft:.0f} s allowed"
            )
            self._refuse("slow", "overloaded", message, max(1.0, wait - self._max_ttft))

    def leave(self, request_id: str) -> None:
        """A request that was let in is over."""
        self.running -= 1
        self._begun.discard(request_id)

    def submitted(self, answer: Answer) -> None:
        """Its prompt is among what waits, though the engine may not have said so yet."""
        self._stats()
        self._unseen += len(answer.request.prompt)

    def begun(self, answer: Answer) -> None:
        """It waits no longer."""
        if answer.exchange is not None and answer.exchange.admitted:
            self._begun.add(answer.exchange.id)

    def _stats(self) -> Stats:
        """The newest figures. What was submitted before they came is in them."""
        stats = self._backend.stats()
        if stats is not self._seen:
            self._seen, self._unseen = stats, 0
        return stats

    def _refuse(self, reason: str, kind: Literal["unavailable", "overloaded"], message: str, retry: float) -> NoReturn:
        self.refused[reason] += 1
        raise ApiError(kind, message, retry_after=min(retry, LONGEST_RETRY))
