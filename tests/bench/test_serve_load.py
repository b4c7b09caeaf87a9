"""Loads: lengths, times of arrival, texts of an exact length."""

import random
import statistics
from itertools import islice, pairwise

import pytest
import tokenizers

from homegrown.bench.serve.lengths import Lengths
from homegrown.bench.serve.load import Load, arrivals
from homegrown.bench.serve.presets import SCENARIOS
from homegrown.bench.serve.sessions import Sessions
from homegrown.bench.serve.words import Words
from homegrown.config import UsageError, UserError
from homegrown.tokenizer import train_tokenizer


def draws(form, count=2000):
    lengths, rng = Lengths.parse(form, "--input"), random.Random(0)
    return [lengths.draw(rng, number) for number in range(count)]


class TestLengths:
    def test_always(self):
        assert set(draws("64")) == {64}

    def test_in_turn(self):
        assert draws("16,64,256", 4) == [16, 64, 256, 16]

    def test_evenly_spread(self):
        drawn = draws("32-48")
        assert set(drawn) == set(range(32, 49))
        assert statistics.mean(drawn) == pytest.approx(40, abs=0.5)

    def test_lognormal(self):
        drawn = draws("lognormal:64:0.6:512")
        assert statistics.median(drawn) == pytest.approx(64, rel=0.06)
        assert min(drawn) >= 1 and max(drawn) <= 512
        assert statistics.mean(drawn) > 70

    @pytest.mark.parametrize("form", ["", "x", "-3", "0", "9-3", "lognormal:64", "64,"])
    def test_nonsense(self, form):
        with pytest.raises(UsageError, match=f"--input {form}: "):
            Lengths.parse(form, "--input")


class TestArrivals:
    def times(self, count=4000, **fields):
        return list(islice(arrivals(Load(**fields), random.Random(0)), count))

    def test_poisson(self):
        gaps = [after - before for before, after in pairwise(self.times(rate=4.0))]
        assert statistics.mean(gaps) == pytest.approx(0.25, rel=0.05)
        assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.08)

    def test_burstiness(self):
        gaps = [after - before for before, after in pairwise(self.times(rate=4.0, burstiness=0.25))]
        assert statistics.mean(gaps) == pytest.approx(0.25, rel=0.1)
        assert statistics.stdev(gaps) == pytest.approx(0.5, rel=0.1)

    def test_bursts(self):
        times = self.times(rate=4.0, burst=8)
        assert all(len(set(times[start : start + 8])) == 1 for start in range(0, len(times), 8))
        assert times[-1] == pytest.approx(1000, rel=0.1)

    def test_all_at_once(self):
        assert set(self.times(count=50)) == {0.0}


class TestSessions:
    def made(self, run=0, **fields):
        return Sessions(Load(requests=6, **fields), Words.common(), run)

    def test_the_same_run_is_the_same(self):
        assert self.made().planned() == self.made().planned()

    def test_another_run_has_other_texts_of_the_same_load(self):
        here, there = self.made(prefixes=1), self.made(run=1, prefixes=1)
        assert here.firsts()[0].prefix != there.firsts()[0].prefix
        texts = {turn.text for session in here.planned() for turn in session.turns}
        assert not texts & {turn.text for session in there.planned() for turn in session.turns}

    def test_turns(self):
        for session in self.made(turns="2-4", input="7", tool="3", output="5").planned():
            assert 2 <= len(session.turns) <= 4
            assert [turn.tokens for turn in session.turns] == [7] + [3] * (len(session.turns) - 1)
            assert all(len(turn.text.split()) == turn.tokens and turn.output == 5 for turn in session.turns)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_are_loads(name):
    scenario = SCENARIOS[name]
    scenario.load.check()
    assert len(Sessions(scenario.load, Words.common()).planned()) >= scenario.load.requests


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (Load(requests=0), "--requests 0: must be at least 1"),
        (Load(rate=-1.0), "--rate -1.0: must not be negative"),
        (Load(burstiness=0.0), "--burstiness 0.0: must be above 0"),
        (Load(cold=True), "add --prefixes 1"),
        (Load(long=9, rate=1.0), "add --rate 0 --concurrency 4"),
        (Load(long_after=-1.0), "--long-after -1.0: must not be negative"),
    ],
)
def test_what_is_no_load_is_refused(load, message):
    with pytest.raises(UsageError, match=message):
        load.check()


class TestWords:
    def test_texts_have_the_exact_number_of_tokens(self, tmp_path):
        train_tokenizer([Words.common().text(3000, random.Random(0))], 2000).save(tmp_path)
        words = Words.of(tmp_path)
        assert words.exact and len(words.words) >= 200
        tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        for tokens in (1, 7, 500):
            text = words.text(tokens, random.Random(tokens))
            assert len(tokenizer.encode(text, add_special_tokens=False).ids) == tokens

    def test_too_few_words(self, tmp_path):
        train_tokenizer(["one two three one two three"], 300).save(tmp_path)
        with pytest.raises(UserError, match="tokens are words with a space before them, too few"):
            Words.of(tmp_path)

    def test_no_tokenizer(self, tmp_path):
        with pytest.raises(UserError, match=r"tokenizer\.json: does not exist; --tokenizer names"):
            Words.of(tmp_path)
