"""Rate limits and budgets, against a clock that the test moves."""

from types import SimpleNamespace

import pytest

from homegrown.serve.errors import ApiError
from homegrown.serve.http.clients import Client
from homegrown.serve.http.exchange import Exchange
from homegrown.serve.http.limits import Bucket, Limiter, Spent
from homegrown.serve.http.metered import Answer
from homegrown.serve.messages import Request, Sampling, Usage


@pytest.fixture
def world():
    return SimpleNamespace(now=1000.0, day="2026-03-30")


def limiter(world, **options):
    return Limiter(clock=lambda: world.now, today=lambda: world.day, **options)


def use(limits, client, prompt, completion):
    """What the metered backend reports of an answer."""
    request = Request(id="a", prompt=[1], sampling=Sampling(max_tokens=1))
    exchange = Exchange(id="x", method="POST", path="/", client=client)
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    limits.ended(Answer(request=request, exchange=exchange, usage=usage))


def refused(limits, client):
    with pytest.raises(ApiError) as raised:
        limits.enter(client)
    return raised.value


def test_bucket(world):
    bucket = Bucket(60, lambda: world.now)
    bucket.take(70)
    assert bucket.level == -10
    assert bucket.wait(1) == 11
    world.now += 11
    assert bucket.level == 1
    world.now += 1000
    assert bucket.level == 60


def test_requests_a_minute(world):
    limits, client = limiter(world), Client(name="a", tenant="a", requests_per_minute=2)
    limits.enter(client)
    limits.enter(client)
    error = refused(limits, client)
    assert (error.kind, error.retry_after) == ("rate_limit", 30.0)
    assert "try again in 30.0s" in error.message
    world.now += 30
    limits.enter(client)
    limits.enter(Client(name="b", tenant="b", requests_per_minute=2))  # another key's bucket is its own


def test_tokens_a_minute_are_a_debt_to_be_paid_off(world):
    limits, client = limiter(world), Client(name="a", tenant="a", tokens_per_minute=600)
    limits.enter(client)
    use(limits, client, 500, 700)
    assert refused(limits, client).retry_after == pytest.approx(60.1)
    world.now += 61
    limits.enter(client)


def test_budgets_follow_the_calendar(world):
    limits = limiter(world)
    client = Client(name="a", tenant="a", tokens_per_day=100, tokens_per_month=150)
    limits.enter(client)
    use(limits, client, 60, 40)
    assert refused(limits, client).kind == "quota"
    world.day = "2026-03-31"
    limits.enter(client)
    use(limits, client, 50, 0)
    assert "a month" in refused(limits, client).message
    world.day = "2026-04-01"
    limits.enter(client)


def test_what_was_spent_before_a_restart_counts(world):
    limits = limiter(world, spent=lambda name: Spent(100, 100, "2026-03-30"))
    assert refused(limits, Client(name="a", tenant="a", tokens_per_day=100)).kind == "quota"


def test_requests_at_a_time(world):
    limits, client = limiter(world), Client(name="a", tenant="a", concurrent=1)
    limits.enter(client)
    assert refused(limits, client).kind == "rate_limit"
    limits.leave(client)
    limits.enter(client)


def test_changed_limits_keep_what_was_spent(world):
    limits = limiter(world)
    use(limits, Client(name="a", tenant="a", tokens_per_day=1000), 100, 0)
    assert refused(limits, Client(name="a", tenant="a", tokens_per_day=50)).kind == "quota"


def test_headers(world):
    limits = limiter(world)
    client = Client(name="a", tenant="a", requests_per_minute=10, tokens_per_minute=60)
    limits.enter(client)
    use(limits, client, 3, 4)
    headers = {name.decode(): value.decode() for name, value in limits.headers(client)}
    assert headers == {
        "x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6.000s", "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": "53", "x-ratelimit-reset-tokens": "7.000s",
    }  # fmt: skip
    assert limits.headers(Client(name="free", tenant="")) == []
