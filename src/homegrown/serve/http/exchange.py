"""One HTTP request, from its first byte to its last: what is logged, counted and billed."""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import Scope

from homegrown.serve.http.clients import ANONYMOUS, Client
from homegrown.serve.messages import Usage

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""Ids that clients may choose: nothing that could break a log line or a header."""

SESSION_HEADERS = (b"x-session-id", b"x-claude-code-session-id", b"session_id", b"x-session-affinity")
"""Headers by which agents name their session, the first one that is there counts."""


@dataclass(kw_only=True)
class Exchange:
    """What is known of a request so far.

    Attributes:
        id: the client's `x-request-id`, or one of ours.
        method, path: as they came, without the query.
        session: the client's name for its session; empty if it gave none.
        client: who asks.
        began: `time.time()`.
        status: of the response; 0 before it begins.
        sent: bytes of the response's body.
        first_token_s: seconds to the first token of an answer.
        usage: tokens of all its answers so far.
        answers: texts it had made.
        finish: why they ended; the last one that did.
        admitted: it was let in to the engine (a batch's request is not: it waits for nobody).
        gone: the client left before the end.
        prompt: the request's body, where prompts are logged.
    """

    id: str
    method: str
    path: str
    session: str = ""
    client: Client = ANONYMOUS
    began: float = field(default_factory=time.time)
    status: int = 0
    sent: int = 0
    first_token_s: float | None = None
    usage: Usage = field(default_factory=Usage)
    answers: int = 0
    finish: str = ""
    admitted: bool = False
    gone: bool = False
    prompt: str = ""
    _clock: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        """The exchange that a request begins."""
        headers = dict(reversed(scope["headers"]))  # of repeated ones, the first counts
        wanted = headers.get(b"x-request-id", b"").decode("latin-1")
        sessions = (headers[name].decode("latin-1") for name in SESSION_HEADERS if name in headers)
        session = next(sessions, "")
        return cls(
            id=wanted if _SAFE_ID.fullmatch(wanted) else f"req_{secrets.token_hex(12)}",
            method=scope["method"],
            path=scope["path"],
            session=session if _SAFE_ID.fullmatch(session) else "",
        )

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._clock


current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
"""The exchange that the running task works for."""


def label(scope: Scope) -> str:
    """The route's path with its parameters by name, for metrics; `other` for what has no route: clients must not be
    able to make up labels without end."""
    if "endpoint" not in scope:
        return "other"
    path: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        path = path.replace(str(value), f"{{{name}}}") if str(value) else path
    return path
