"""What a key may use: requests and tokens a minute, tokens a day and a month, requests at a time.

Tokens are counted when they have been used, so a request is let in as long as something is left, and may leave a debt
that has to be paid off before the next one: nobody needs to guess how long an answer will be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from homegrown.serve.errors import ApiError
from homegrown.serve.http.clients import Client
from homegrown.serve.http.metered import Answer, Listener

Clock = Callable[[], float]
Headers = list[tuple[bytes, bytes]]


class Bucket:
    """A minute's allowance that fills up steadily; it may go below zero.

    Args:
        size: what a minute brings, and the most that is saved up.
        clock: seconds.
    """

    def __init__(self, size: int, clock: Clock = time.monotonic) -> None:
        self.size = size
        self._clock, self._level, self._when = clock, float(size), clock()

    @property
    def level(self) -> float:
        """What is left."""
        now = self._clock()
        self._level = min(self.size, self._level + (now - self._when) * self.size / 60)
        self._when = now
        return self._level

    def take(self, amount: float) -> None:
        """Use some."""
        self._level = self.level - amount

    def wait(self, level: float) -> float:
        """Seconds until so much is there."""
        return max(0.0, (level - self.level) * 60 / self.size)


@dataclass
class Spent:
    """Tokens used in the current day and month, UTC."""

    today: int = 0
    this_month: int = 0
    day: str = ""

    def add(self, tokens: int, day: str) -> None:
        """Count tokens on a day (YYYY-MM-DD); a new day or month begins at zero."""
        if day != self.day:
            self.today = 0
            self.this_month = self.this_month if day[:7] == self.day[:7] else 0
            self.day = day
        self.today += tokens
        self.this_month += tokens


@dataclass
class _Account:
    client: Client
    requests: Bucket | None
    tokens: Bucket | None
    spent: Spent = field(default_factory=Spent)
    running: int = 0


class Limiter(Listener):
    """Holds clients to their limits.

    Args:
        spent: what a key's name has spent so far, for its budgets; asked once a key.
        clock: seconds.
        today: the date in UTC, YYYY-MM-DD.
    """

    def __init__(
        self,
        spent: Callable[[str], Spent] = lambda name: Spent(),
        clock: Clock = time.monotonic,
        today: Callable[[], str] = lambda: datetime.now(UTC).date().isoformat(),
    ) -> None:
        self._spent, self._clock, self._today = spent, clock, today
        self._accounts: dict[str, _Account] = {}

    def enter(self, client: Client) -> None:
        """Let a request in and count it; `leave` must follow.

        Raises:
            ApiError: a limit is reached.
        """
        account = self._account(client, current=True)
        _refuse_budgets(account, self._today())
        if client.concurrent and account.running >= client.concurrent:
            raise ApiError(
                "rate_limit",
                f"{client.concurrent} requests of this key are running, its most at a time; wait for one to end",
                retry_after=1.0,
            )
        if account.requests is not None:
            wait = account.requests.wait(1)
            _refuse(wait, f"this key's {account.requests.size} requests a minute are used up")
        if account.tokens is not None:
            wait = account.tokens.wait(min(1, account.tokens.size))
            _refuse(wait, f"this key's {account.tokens.size} tokens a minute are used up")
        if account.requests is not None:
            account.requests.take(1)
        account.running += 1

    def afford(self, client: Client) -> None:
        """Raise `ApiError` if a client's budget of tokens is spent."""
        _refuse_budgets(self._account(client), self._today())

    def leave(self, client: Client) -> None:
        """A request that was let in is over."""
        self._account(client).running -= 1

    def ended(self, answer: Answer) -> None:
        """Book an answer's tokens."""
        if answer.exchange is None:
            return
        account = self._account(answer.exchange.client)
        tokens = answer.usage.prompt_tokens + answer.usage.completion_tokens
        account.spent.add(tokens, self._today())
        if account.tokens is not None:
            account.tokens.take(tokens)

    def headers(self, client: Client) -> Headers:
        """The `x-ratelimit-*` headers that tell a client where it stands."""
        account = self._account(client)
        found: Headers = []
        for what, bucket in (("requests", account.requests), ("tokens", account.tokens)):
            if bucket is not None:
                values = {
                    "limit": str(bucket.size),
                    "remaining": str(max(0, int(bucket.level))),
                    "reset": f"{bucket.wait(bucket.size):.3f}s",
                }
                found += [(f"x-ratelimit-{key}-{what}".encode(), value.encode()) for key, value in values.items()]
        return found

    def _account(self, client: Client, current: bool = False) -> _Account:
        """A client's account; `current` says that its limits are, while those of an old batch may have changed."""
        account = self._accounts.get(client.name)
        if account is None or (current and account.client != client):
            fresh = _Account(
                client,
                Bucket(client.requests_per_minute, self._clock) if client.requests_per_minute else None,
                Bucket(client.tokens_per_minute, self._clock) if client.tokens_per_minute else None,
                self._spent(client.name) if account is None else account.spent,
                0 if account is None else account.running,
            )
            account = self._accounts[client.name] = fresh
        return account


def _refuse(wait: float, what: str) -> None:
    if wait > 0:
        raise ApiError("rate_limit", f"{what}; try again in {wait:.1f}s", retry_after=wait)


def _refuse_budgets(account: _Account, today: str) -> None:
    account.spent.add(0, today)
    client = account.client
    for name, spent, budget in (
        ("day", account.spent.today, client.tokens_per_day),
        ("month", account.spent.this_month, client.tokens_per_month),
    ):
        if budget and spent >= budget:
            raise ApiError(
                "quota", f"this key's budget of {budget} tokens a {name} is spent ({spent} were used, by UTC calendar)"
            )
