"""Figures of outcomes that were made by hand."""

import json

import msgspec
import numpy as np
import pytest

from homegrown.bench.record import Spread
from homegrown.bench.serve.compare import by_new_tokens, by_turn, pace, ttft_line
from homegrown.bench.serve.contest import results
from homegrown.bench.serve.drive import Run
from homegrown.bench.serve.figures import Slo, figures, percentile, series, weighted_percentile
from homegrown.bench.serve.outcome import Outcome


def answer(sent=0.0, ttft=0.1, gaps=(0.02,) * 4, tokens=None, **fields):
    arrivals = np.cumsum([sent + ttft, *gaps]).tolist()
    tokens = len(arrivals) if tokens is None else tokens
    usage = {"usage": True, "prompt_tokens": 10, "completion_tokens": tokens, "wanted": tokens, "finish": "length"}
    times = {"sent": sent, "due": sent, "arrivals": arrivals, "ended": arrivals[-1] + 0.001}
    return Outcome(**usage | times | fields)


class TestOutcome:
    def test_times(self):
        one = answer(sent=1.0, ttft=0.3, gaps=(0.1, 0.2))
        assert one.ttft == pytest.approx(0.3)
        assert one.latency == pytest.approx(0.6)
        assert one.tpot == pytest.approx(0.15)
        assert one.gaps == pytest.approx([0.1, 0.2])

    def test_one_token_has_no_time_per_token(self):
        assert answer(gaps=()).tpot is None

    def test_gaps_per_token_are_even_where_sizes_are_not_told(self):
        pairs = answer(gaps=(0.06, 0.03), tokens=9).token_gaps
        assert pairs == [(pytest.approx(0.02), 3.0), (pytest.approx(0.01), 3.0)]

    def test_text_that_never_came(self):
        nothing = Outcome(sent=1.0, ended=1.5, finish="stop")
        assert (nothing.ttft, nothing.latency, nothing.gaps, nothing.token_gaps) == (0.5, 0.5, [], [])


def test_percentiles_are_numpys():
    ttfts = [0.01 * number for number in range(1, 102)]
    found = figures([answer(ttft=ttft) for ttft in ttfts], 10.0)
    for share in (50, 90, 95, 99):
        assert found[f"p{share}_ttft_ms"] == pytest.approx(np.percentile(ttfts, share) * 1e3)
    assert found["median_ttft_ms"] == found["p50_ttft_ms"] == pytest.approx(510)
    assert found["mean_ttft_ms"] == pytest.approx(510)
    assert found["std_ttft_ms"] == pytest.approx(np.std(ttfts) * 1e3)
    assert percentile([], 99) == 0.0


def test_weighted_percentile_is_that_of_repeated_values():
    values, weights = [3.0, 1.0, 2.0], [2, 5, 3]
    repeated = np.repeat(values, weights)
    for share in (1, 10, 50, 51, 79, 80, 81, 99, 100):
        assert weighted_percentile(values, weights, share) == np.percentile(repeated, share, method="inverted_cdf")


def test_counts():
    outcomes = [answer(cached_tokens=4, accepted=3, rejected=1), answer(), Outcome(error="HTTP 429"), answer(wanted=9)]
    found = figures(outcomes, 2.0)
    assert (found["completed"], found["failed"], found["errors_by_kind"]) == (3, 1, {"HTTP 429": 1})
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (30, 15)
    assert (found["request_throughput"], found["output_throughput"], found["total_token_throughput"]) == (
        1.5,
        7.5,
        22.5,
    )
    assert found["prefix_hit_rate"] == pytest.approx(4 / 30)
    assert found["spec_decode_acceptance_rate"] == 0.75
    assert found["short_answers"] == 1
    assert found["request_goodput"] is None


def test_nothing_at_all():
    found = figures([], 1.0)
    assert found["completed"] == found["failed"] == 0
    assert found["p99_ttft_ms"] == found["max_output_tokens_per_s"] == 0


def test_goodput():
    fast, slow, dragging = answer(ttft=0.1), answer(ttft=0.6), answer(ttft=0.1, gaps=(0.2,) * 4)
    outcomes = [fast, slow, dragging, Outcome(error="timeout")]
    found = figures(outcomes, 2.0, Slo(ttft_ms=500, tpot_ms=100))
    assert found["request_goodput"] == 0.5
    assert found["goodput_share"] == 0.25
    assert figures(outcomes, 2.0, Slo(tpot_ms=100))["request_goodput"] == 1.0


def test_peaks():
    outcomes = [answer(sent=0.0, ttft=0.5, gaps=(0.1,) * 3), answer(sent=0.2, ttft=0.5, gaps=()), answer(sent=3.0)]
    found = figures(outcomes, 4.0)
    assert found["max_output_tokens_per_s"] == 5
    assert found["max_concurrent_requests"] == 2


def test_names_are_those_of_the_usual_tools():
    """What vLLM's `bench serve` writes, and what reads it, such as its dashboards, looks for."""
    outcomes = [
        answer(sent=1.0),
        answer(sent=0.0, prompt_tokens=7),
        Outcome(sent=2.0, error="HTTP 500", message="oops"),
    ]
    record = json.loads(msgspec.json.encode(figures(outcomes, 2.0) | series(outcomes)))
    times = [
        f"{statistic}_{name}_ms"
        for name in ("ttft", "tpot", "itl", "e2el")
        for statistic in ("mean", "median", "std", "p50", "p90", "p95", "p99")
    ]
    rates = ["request_throughput", "request_goodput", "output_throughput", "total_token_throughput"]
    counts = ["duration", "completed", "failed", "total_input_tokens", "total_output_tokens"]
    peaks = ["max_output_tokens_per_s", "max_concurrent_requests"]
    assert record.keys() >= {*times, *rates, *counts, *peaks, "input_lens", "output_lens", "ttfts", "itls", "errors"}
    assert record["input_lens"] == [7, 10, 0]
    assert record["output_lens"] == [5, 5, 0]
    assert record["ttfts"] == [0.1, 0.1, 0.0]
    assert [len(gaps) for gaps in record["itls"]] == [4, 4, 0]
    assert record["errors"] == ["", "", "HTTP 500: oops"]


class TestPrefixes:
    def hits(self):
        for new in (16, 64, 128):
            for group, cached in (("hit", 256), ("cold", 0)):
                prompt = 256 + new
                yield answer(
                    ttft=0.02 + 0.001 * (prompt - cached), prompt_tokens=prompt, cached_tokens=cached, group=group
                )

    def test_line_is_found(self):
        line = ttft_line(list(self.hits()))
        assert line["ms_per_new_token"] == pytest.approx(1.0)
        assert line["ms_at_zero"] == pytest.approx(20.0)
        assert line["r2"] == pytest.approx(1.0)

    def test_no_line_through_one_point(self):
        assert ttft_line([answer(group="hit"), answer(group="hit")]) is None

    def test_table(self):
        rows = by_new_tokens([*self.hits(), answer(group="first")])
        assert [(row["group"], row["new_tokens"]) for row in rows] == [
            ("cold", 272), ("cold", 320), ("cold", 384), ("hit", 16), ("hit", 64), ("hit", 128),
        ]  # fmt: skip
        assert rows[3]["median_ttft_ms"] == pytest.approx(36)


def test_turns():
    rows = by_turn([answer(turn=1, ttft=0.2, cached_tokens=8), answer(turn=0), answer(turn=1, ttft=0.4)])
    assert [(row["turn"], row["requests"]) for row in rows] == [(0, 1), (1, 2)]
    assert rows[1]["median_ttft_ms"] == pytest.approx(300)
    assert rows[1]["median_cached_tokens"] == 4


def test_pace():
    long = answer(sent=1.0, ttft=1.0, gaps=(), group="long")
    stream = answer(sent=0.0, ttft=0.5, gaps=(0.25, 0.25, 0.5, 0.75, 0.1), tokens=6)
    before, during, after = pace([long, stream])
    assert [phase["phase"] for phase in (before, during, after)] == ["before", "during", "after"]
    assert before["gaps"] == 1 and before["median_itl_ms"] == pytest.approx(250)
    assert during["gaps"] == 2 and during["max_itl_ms"] == pytest.approx(500)
    assert during["output_throughput"] == pytest.approx(2.0)
    assert after["gaps"] == 2 and after["max_itl_ms"] == pytest.approx(750)
    assert pace([stream]) == []


class _Done:
    name, timed = "one", True

    def __init__(self, *runs):
        self.runs = list(runs)


def test_rounds_are_pooled_and_spread():
    one, two = Run([answer(), answer(group="first")], 1.0), Run([answer(ttft=0.3), answer(ttft=0.3)], 3.0)
    found = results(_Done(one, two), Slo())
    assert found["completed"] == 3
    assert found["output_throughput"] == pytest.approx(15 / 4)
    assert found["rounds"]["output_throughput"] == Spread.of([5.0, 10 / 3])
    assert found["max_concurrent_requests"] == 2


def test_what_is_not_timed_has_no_times():
    done = _Done(Run([Outcome(completion_tokens=4, ended=2.0, usage=True)], 2.0))
    done.timed = False
    found = results(done, Slo())
    assert found["output_throughput"] == 2.0
    assert not [name for name in [*found, *found["rounds"]] if name.endswith("_ms")]
