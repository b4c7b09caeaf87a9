"""The client against a server whose pauses, counts and failures are known."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homegrown.bench.serve.child import free_port
from homegrown.bench.serve.drive import drive, requests
from homegrown.bench.serve.figures import Slo, figures
from homegrown.bench.serve.http import Client
from homegrown.bench.serve.load import Load
from homegrown.bench.serve.outcome import Outcome
from homegrown.bench.serve.stream import Reader
from homegrown.bench.serve.target import Asking, Target
from homegrown.bench.serve.words import Words
from homegrown.config import UserError

from .serving import Script, Scripted, listening

WORDS = Words.common()
SLACK = 0.25
"""Seconds that a busy machine may add to any pause."""
EARLY = 0.005
"""Seconds by which a timer may wake too early."""


def run(script, load, *, asking=None, told=lambda outcome: None):
    scripted = Scripted(script if callable(script) else lambda body: script)

    async def go(url):
        target = Target(url, asking or Asking())
        try:
            await target.find_model()
            return await drive(target, load, WORDS, told=told)
        finally:
            await target.client.close()

    with listening(scripted) as url:
        return asyncio.run(go(url)), scripted


def test_pauses_are_measured():
    script = Script(pieces=[(0.12, " a"), (0.05, " b"), (0.05, " c"), (0.05, " d")], tokens=4)
    done, _ = run(script, Load(requests=3, concurrency=1, output="4"))
    for outcome in done.outcomes:
        assert 0.12 - EARLY <= outcome.ttft <= 0.12 + SLACK
        assert len(outcome.gaps) == 3
        assert all(0.05 - EARLY <= gap <= 0.05 + SLACK for gap in outcome.gaps)
        assert outcome.tpot == pytest.approx(sum(outcome.gaps) / 3)
        assert outcome.text == " a b c d"
    found = figures(done.outcomes, done.duration)
    assert 115 <= found["median_ttft_ms"] <= 120 + 1e3 * SLACK
    assert 45 <= found["median_itl_ms"] <= 50 + 1e3 * SLACK
    assert found["completed"] == 3
    assert found["output_throughput"] == pytest.approx(12 / done.duration)
    assert done.duration >= 3 * (0.27 - 4 * EARLY)


def test_a_piece_may_have_several_tokens():
    script = Script(
        pieces=[(0.0, " a b"), (0.06, " c d e"), (0.03, " f")], tokens=6, accepted=3, rejected=6, token_ids=[2, 3, 1]
    )
    done, _ = run(script, Load(requests=1, output="6"))
    (outcome,) = done.outcomes
    assert outcome.sizes == [2, 3, 1]
    assert [size for _, size in outcome.token_gaps] == [3, 1]
    assert outcome.token_gaps[0][0] == pytest.approx(outcome.gaps[0] / 3)
    found = figures(done.outcomes, done.duration)
    assert found["tokens_per_chunk"] == 2
    assert found["chunk_tokens_told"]
    assert found["spec_decode_acceptance_rate"] == pytest.approx(1 / 3)
    assert found["mean_token_itl_ms"] == pytest.approx(1e3 * sum(outcome.gaps) / 4)


def test_without_usage_pieces_are_counted():
    done, _ = run(Script(tokens=-1), Load(requests=1, output="2"))
    assert done.outcomes[0].completion_tokens == 2
    assert not figures(done.outcomes, 1.0)["usage_told"]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (Script(status=429), "HTTP 429", "the queue is full"),
        (Script(cut=True), "cut off", "without a finish reason"),
        (Script(error="out of pages"), "failed", "out of pages"),
        (Script(pieces=[(5.0, "late")]), "timeout", "longer than 0.2 s"),
    ],
)
def test_failures_have_a_kind(script, error, message):
    done, _ = run(script, Load(requests=2, output="2"), asking=Asking(timeout_s=0.2))
    found = figures(done.outcomes, done.duration)
    assert found["failed"] == 2
    assert found["errors_by_kind"] == {error: 2}
    assert all(message in outcome.message for outcome in done.outcomes)
    assert found["output_throughput"] == 0


def test_nobody_there():
    async def go():
        target = Target(f"http://127.0.0.1:{free_port()}", Asking(), model="any")
        return await drive(target, Load(requests=1), WORDS)

    (outcome,) = asyncio.run(go()).outcomes
    assert outcome.error == "connection"
    assert "cannot connect to 127.0.0.1" in outcome.message


def test_no_url():
    with pytest.raises(UserError, match="'localhost:8000' is no URL of a server; one is written http://HOST:PORT"):
        Client("localhost:8000")


def test_closed_loop_keeps_to_its_bound_and_reuses_connections():
    done, scripted = run(Script(pieces=[(0.02, " a")], tokens=1), Load(requests=12, concurrency=3, output="1"))
    assert scripted.most == 3
    assert len(scripted.connections) == 3
    assert figures(done.outcomes, done.duration)["max_concurrent_requests"] == 3


def test_open_loop_does_not_wait_for_answers():
    load = Load(requests=20, rate=100.0, output="1")
    done, scripted = run(Script(pieces=[(0.5, " a")], tokens=1), load)
    assert scripted.most > 10
    sent = sorted(outcome.sent for outcome in done.outcomes)
    assert 0.03 < sent[-1] < 0.6 + SLACK
    assert all(outcome.sent - outcome.due < SLACK for outcome in done.outcomes)


def test_bursts_arrive_together():
    done, _ = run(Script(), Load(requests=12, rate=20.0, burst=4, output="2"))
    due = sorted({outcome.due for outcome in done.outcomes})
    assert len(due) == 3
    assert len({outcome.session for outcome in done.outcomes}) == 12


class TestPrompts:
    def test_settings_of_an_open_server(self):
        _, scripted = run(Script(), Load(requests=1, input="5", output="2"))
        (body,) = scripted.bodies
        assert body["model"] == "scripted"
        assert len(body["prompt"].split()) == 5
        assert (body["max_tokens"], body["temperature"], body["ignore_eos"]) == (2, 0.0, True)
        assert body["stream"] and body["stream_options"] == {"include_usage": True}

    def test_settings_of_a_strict_one(self):
        _, scripted = run(Script(), Load(requests=1, output="2"), asking=Asking(strict=True))
        (body,) = scripted.bodies
        assert "ignore_eos" not in body
        assert body["generation_config"] == '{"do_sample": false, "max_new_tokens": 2, "eos_token_id": -1}'

    def test_shared_prefixes(self):
        load = Load(requests=4, concurrency=1, prefixes=2, prefix=20, input="3", output="2", cold=True)
        done, scripted = run(Script(cached=8), load)
        prompts = [body["prompt"] for body in scripted.bodies]
        first, second, *rest = prompts
        assert len(rest) == 8 == requests(load, WORDS) - 2
        hits, cold = rest[::2], rest[1::2]
        assert [prompt.startswith((first, second)[number % 2]) for number, prompt in enumerate(hits)] == [True] * 4
        assert not any(prompt.startswith((first, second)) for prompt in cold)
        assert {len(prompt.split()) for prompt in rest} == {23}
        assert [outcome.group for outcome in done.outcomes] == ["first"] * 2 + ["hit", "cold"] * 4
        found = figures(done.outcomes, done.duration)
        assert (found["cached_tokens"], found["prefix_hit_rate"], found["prefix_hit_requests"]) == (80, 0.8, 10)

    def test_completions_grow_by_answer_and_tool_result(self):
        done, scripted = run(Script(), Load(requests=1, turns="3", input="4", tool="6", output="2"))
        one, two, three = (body["prompt"] for body in scripted.bodies)
        assert two.startswith(one + " a b") and three.startswith(two + " a b")
        assert [len(prompt.split()) for prompt in (one, two, three)] == [4, 12, 20]
        assert [outcome.turn for outcome in done.outcomes] == [0, 1, 2]

    def test_chats_grow_by_call_and_tool_result(self):
        load = Load(requests=1, turns="2", input="4", tool="6", output="2", prefixes=1, prefix=5)
        _, scripted = run(Script(reasoning=True), load, asking=Asking(api="chat"))
        _, one, two = (body["messages"] for body in scripted.bodies)
        assert [message["role"] for message in one] == ["user"]
        assert [message["role"] for message in two] == ["user", "assistant", "tool"]
        assert len(one[0]["content"].split()) == 9
        assert two[1]["reasoning_content"] == " a b"
        assert two[1]["tool_calls"][0]["id"] == two[2]["tool_call_id"]

    def test_a_failed_turn_ends_its_session(self):
        done, _ = run(Script(status=500), Load(requests=2, turns="3"))
        assert [outcome.turn for outcome in done.outcomes] == [0, 0]


def test_streams_go_on_until_the_long_prompt_is_answered():
    def script(body):
        words = len(body["prompt"].split())
        return Script(pieces=[(0.3, " x")], tokens=1) if words == 200 else Script(pieces=[(0.01, " a")] * 5, tokens=5)

    told = []
    load = Load(requests=1, concurrency=2, input="4", output="5", long=200, long_after=0.1)
    done, _ = run(script, load, told=told.append)
    assert len(told) == len(done.outcomes)
    (long,) = (outcome for outcome in done.outcomes if outcome.group == "long")
    others = [outcome for outcome in done.outcomes if outcome.group == ""]
    assert long.sent >= 0.1
    assert sum(long.sent < outcome.ended < long.arrivals[0] for outcome in others) >= 2
    assert max(outcome.sent for outcome in others) <= long.ended


STREAM = (
    b'data: {"choices":[{"text":"a\xc3\xa9"}]}\n\n: keep-alive\n\nevent: x\r\ndata: {"choices":[{"text":"",\r\n'
    b'data: "finish_reason":null}]}\r\n\r\ndata:{"choices":[{"text":"b","finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_may_be_split_anywhere(cuts):
    outcome = Outcome(wanted=2)
    reader = Reader(outcome, 0.0)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(STREAM)], strict=True):
        reader.take(STREAM[start:stop], 1.0)
    reader.finish()
    assert (outcome.text, outcome.finish, outcome.error) == ("aéb", "stop", "")
    assert (len(outcome.arrivals), outcome.prompt_tokens, outcome.completion_tokens) == (2, 3, 2)


def test_what_is_no_json_is_an_error():
    outcome = Outcome()
    reader = Reader(outcome, 0.0)
    reader.take(b"data: {oops\n\n", 1.0)
    reader.finish()
    assert outcome.error == "not understood"


def test_goodput_of_known_pauses():
    slow = iter([0.0, 0.4, 0.0, 0.4])
    done, _ = run(
        lambda body: Script(pieces=[(next(slow), " a"), (0.0, " b")]), Load(requests=4, concurrency=1, output="2")
    )
    found = figures(done.outcomes, done.duration, Slo(ttft_ms=300))
    assert found["goodput_share"] == 0.5
    assert found["request_goodput"] == pytest.approx(2 / done.duration)
