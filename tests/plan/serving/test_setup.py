"""Traffic, speculation and layouts: closed forms against simulation, and what is refused."""

import numpy as np
import pytest

from homegrown.config import ConfigError
from homegrown.plan.serving import Pool, Requests, Setup, Speculation, Traffic, read_setup
from homegrown.plan.serving.reading import parse_mix, parse_rate

STEADY = Traffic(mix=(Requests(input=4000, output=800, hit_rate=0.5),), live=False)


def test_accepted_tokens_are_those_of_a_simulation():
    random = np.random.default_rng(0)
    right = random.random((200_000, 3)) < 0.8
    accepted = 1 + np.cumprod(right, axis=1).sum(axis=1)
    assert Speculation(steps=3, acceptance=0.8).accepted == pytest.approx(accepted.mean(), rel=5e-3)
    assert Speculation().accepted == 1.0


def test_published_acceptance_of_three_guesses():
    """About 3.1 of 4 tokens are kept: a probability of 0.85 each."""
    assert Speculation(steps=3, acceptance=0.85).accepted == pytest.approx(3.1, abs=0.1)


def test_means_of_a_mix():
    mix = Traffic(
        mix=(Requests(input=1000, output=100, share=3), Requests(input=9000, output=500, share=1, hit_rate=0.5))
    )
    assert mix.mean("input") == 3000
    assert mix.mean("missed") == (3 * 1000 + 4500) / 4
    assert mix.hit_rate == pytest.approx(1 - 1875 / 3000)


def test_long_answers_are_met_more_often():
    """The keys of requests in flight, against requests drawn and sampled at random moments of their decoding."""
    random = np.random.default_rng(1)
    outputs = random.exponential(800.0, 400_000)
    met = random.choice(outputs, 200_000, p=outputs / outputs.sum())
    keys = 4000 + met * random.random(200_000)
    assert Requests(input=4000, output=800).context(spread=1.0) == pytest.approx(keys.mean(), rel=5e-3)
    assert Requests(input=4000, output=800).context() == 4400


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Requests(input=0, output=1), "traffic.input = 0: must be above 0, tokens of a prompt"),
        (lambda: Requests(input=1, output=1, hit_rate=1.0), "traffic.hit_rate = 1: must be at least 0 and below 1"),
        (lambda: Traffic(mix=()), "at least one kind of request"),
        (lambda: Speculation(steps=99), "speculation.steps = 99"),
        (lambda: Speculation(acceptance=1.5), "speculation.acceptance = 1.5"),
        (lambda: Pool(devices=144, tp=7), "pool.tp = 7: must divide the instance's 144 devices"),
        (lambda: Pool(devices=16, ep=5), "pool.ep = 5: must divide the instance's 16 devices"),
        (lambda: Pool(devices=16, tp=4, exchange="replicated"), "needs every token on every device, tp = 16, not 4"),
        (lambda: Pool(devices=16, memory_share=1.2), "pool.memory_share = 1.2"),
        (lambda: Setup(traffic=STEADY), "needs a prefill pool, a decode pool, or devices"),
        (lambda: Setup(traffic=STEADY, decode=Pool(devices=8)), "needs a batch, or a time per token"),
        (lambda: parse_rate("100"), "as in 100/s"),
        (lambda: parse_mix(["4000"], 0.0), "must be PROMPT/ANSWER"),
        (lambda: parse_mix(["4000/800:many"], 0.0), "share and hit rate must be numbers"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_words_of_a_command_line():
    assert parse_rate("6000/min") == pytest.approx(100)
    assert parse_rate("40M/day") == pytest.approx(40e6 / 86400)
    short, long = parse_mix(["4000/800:0.7", "128K/2000:0.3:0.9"], 0.5)
    assert (short.input, short.share, short.hit_rate) == (4000, 0.7, 0.5)
    assert (long.input, long.output, long.hit_rate) == (131_072, 2000, 0.9)


TABLE = {"tpot": "50 ms", "traffic": {"input": 4000, "output": 800}, "decode": {"devices": 16, "tp": 8}}


def test_a_deployment_is_read():
    setup = read_setup(TABLE | {"precision": {"keys": "fp8"}, "per": 8}, "mine.toml")
    assert setup.tpot == pytest.approx(0.05) and setup.decode == Pool(devices=16, tp=8)
    assert setup.precision.keys == "fp8" and setup.per == 8 and setup.traffic.live


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tpot": 50}, "tpot = 50: needs a unit"),
        ({"decod": {}}, "did you mean 'decode'?"),
        ({"decode": {"tp": 8}}, "'devices' is missing"),
        ({"decode": {"devices": 16, "tpp": 8}}, "did you mean 'tp'?"),
        ({"decode": 16}, "decode = 16: must be a table"),
        ({"precision": {"weights": "fp7"}}, "weights = 'fp7': must be one of bf16, fp8, int8, fp4"),
        ({"decode": {"devices": 16, "exchange": "magic"}}, "exchange = 'magic': must be one of dispatch, replicated"),
        ({"decode": {"devices": "many"}}, "devices"),
        ({"traffic": {"input": 4000}}, "'output' is missing"),
        ({"traffic": {"mix": []}}, "must be a list of tables"),
        ({"devices": 16}, "is for setups with tpot and without pools"),
    ],
)
def test_bad_tables_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ConfigError) as error:
        read_setup(TABLE | changes, "mine.toml")
    assert words in str(error.value) and "\n" not in str(error.value)
