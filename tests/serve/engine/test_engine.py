"""What an engine says to requests, and that it is nobody else's business."""

import random
from collections import defaultdict

import pytest
import torch

from homegrown.config import ConfigError
from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.messages import Grammar

from ..tiny import tiny_tokenizer
from .driving import CHUNK, engine, noisy_model, random_requests, request, run, told_alone


@pytest.fixture(scope="module")
def model():
    return noisy_model()


class TestSameAsAlone:
    """Tokens are those of `homegrown generate`, whoever else runs, whatever had to make room."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("host_pages", [0, 30], ids=["recomputed", "swapped"])
    def test_invariant(self, dtype, host_pages):
        model = noisy_model(dtype)
        requests = [request(f"long {n}", [7 + n, 9], 40) for n in range(3)]
        requests += random_requests(model.config, 7, seed=host_pages, most=16)
        runs = engine(model, invariant=True, pages=13, host_pages=host_pages, max_running=6)
        told = run(runs, requests, seed=1)
        for wanted in requests:
            assert told.tokens(wanted.id) == told_alone(model, wanted), wanted
        stats = runs.stats()
        assert stats.preempted > 0
        assert stats.accepted > 0
        assert stats.cached_tokens > 0

    @pytest.mark.parametrize("options", [{"pages": 24}, {"page_size": 6}, {"speculate": 0}])
    def test_invariant_sampled(self, model, options):
        requests = random_requests(model.config, 6, seed=5, most=12, temperature=0.8, top_p=0.9)
        runs = engine(model, invariant=True, max_running=6, **options)
        told = run(runs, requests, seed=2)
        for wanted in requests:
            assert told.tokens(wanted.id) == told_alone(model, wanted)
        assert runs.stats().cached_tokens > 0

    @pytest.mark.parametrize("options", [{}, {"speculate": 0}, {"pages": 15, "host_pages": 9}, {"prefix_cache": False}])
    def test_normal(self, model, options):
        requests = [request(f"long {n}", [8 + n], 40) for n in range(4)] + random_requests(model.config, 6, seed=3)
        runs = engine(model, max_running=6, **options)
        told = run(runs, requests, seed=3)
        for wanted in requests:
            assert told.tokens(wanted.id) == told_alone(model, wanted)
        assert (runs.stats().preempted > 0) == ("pages" in options)

    def test_without_ngrams_or_selection_or_drafts(self):
        from homegrown.config import MtpConfig, NgramConfig, SparseConfig

        model = noisy_model(ngram=NgramConfig(), sparse=SparseConfig(), mtp=MtpConfig())
        requests = random_requests(model.config, 4, seed=4, most=10)
        told = run(engine(model), requests, seed=4)
        for wanted in requests:
            assert told.tokens(wanted.id) == told_alone(model, wanted)


class TestSpeculation:
    def test_says_the_same_in_fewer_steps(self, model):
        requests = random_requests(model.config, 5, seed=6)
        plain, drafting = engine(model, speculate=0), engine(model)
        told, drafted = run(plain, requests), run(drafting, requests)
        assert {name: told.tokens(name) for name in told.outputs} == {
            name: drafted.tokens(name) for name in told.outputs
        }
        usages = [drafted.last(name).usage for name in drafted.outputs]
        assert 0 < sum(usage.accepted for usage in usages) < sum(usage.drafted for usage in usages)
        assert sum(usage.accepted for usage in usages) == drafting.stats().accepted
        assert drafting.stats().steps < plain.stats().steps
        assert told.last("0").usage.drafted == plain.stats().drafted == 0

    def test_is_refused_without_a_draft_head(self):
        from homegrown.config import MtpConfig

        with pytest.raises(ConfigError, match="no draft head"):
            engine(noisy_model(mtp=MtpConfig()), speculate=2)


class TestOutputs:
    def test_usage(self, model):
        told = run(engine(model, speculate=0), [request("a", range(10, 40), 5)])
        first, *middle, last = told.outputs["a"]
        assert first.usage.completion_tokens == 1
        assert all(output.usage is None for output in middle)
        assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.finish) == (30, 5, "length")
        assert last.usage.queue_s >= 0
        assert last.usage.prefill_s > 0
        assert last.usage.decode_s > 0

    def test_compute_is_of_the_rows_that_tokens_came_from(self, model):
        prompt = list(range(20, 50))
        told = run(engine(model), [request("a", prompt, 12)])
        whole = torch.tensor([prompt + told.tokens("a")])
        with torch.inference_mode():
            routing = model.trunk(whole, model.context(whole)).routing
        real = torch.stack([(r.index_NK < model.config.n_routed_experts).sum(-1).float() for r in routing]).mean(0)
        found = [value for output in told.outputs["a"] for value in output.compute]
        assert found == real[len(prompt) - 1 : -1].tolist()

    def test_scores(self, model):
        prompt = list(range(30, 70))
        runs = engine(model)
        run(runs, [request("before", prompt, 1)])  # must not keep prompt tokens from being scored
        told = run(runs, [request("a", prompt, 6, logprobs=2, prompt_logprobs=1)])
        tokens = told.tokens("a")
        with torch.inference_mode():
            expected = model(torch.tensor([prompt + tokens]))[0].log_softmax(-1)
        first, *others = told.outputs["a"]
        assert first.prompt_scores[0] is None
        assert all(output.prompt_scores is None for output in others)
        scores = first.prompt_scores[1:] + [score for output in told.outputs["a"] for score in output.scores]
        assert len(scores) == len(prompt) + len(tokens) - 1
        for row, token, score in zip(expected, [*prompt[1:], *tokens], scores, strict=False):
            assert score.logprob == pytest.approx(float(row[token]), abs=1e-4)
            assert score.top[0][1] == pytest.approx(float(row.max()), abs=1e-4)
        assert [len(score.top) for score in scores] == [1] * (len(prompt) - 1) + [2] * len(tokens)

    def test_ends_where_the_context_does(self):
        model = noisy_model(max_position_embeddings=40)
        told = run(engine(model), [request("a", range(10, 40), 100, ignore_eos=True)])
        assert len(told.tokens("a")) == 10
        assert told.last("a").finish == "length"

    def test_ends_where_the_pages_do(self, model):
        runs = engine(model, pages=5)
        assert runs.longest == 40
        told = run(runs, [request(str(n), range(10, 40), 100, ignore_eos=True) for n in range(3)])
        assert [len(told.tokens(name)) for name in told.outputs] == [10, 10, 10]


class TestPrefixes:
    def test_a_conversation_goes_on_where_it_was(self, model):
        runs = engine(model)
        prompt = list(range(20, 60))
        told = run(runs, [request("a", prompt, 20)])
        again = request("b", [*prompt, *told.tokens("a"), 5, 6, 7], 8)
        later = run(runs, [again])
        assert later.last("b").usage.cached_tokens == (len(prompt) + 20 - 1) // 8 * 8
        assert later.tokens("b") == told_alone(model, again)

    def test_salt_keeps_them_apart(self, model):
        runs = engine(model)
        run(runs, [request("a", range(20, 60), salt="one")])
        assert run(runs, [request("b", range(20, 60), salt="two")]).last("b").usage.cached_tokens == 0
        assert run(runs, [request("c", range(20, 60), salt="one")]).last("c").usage.cached_tokens == 32

    @pytest.mark.parametrize("invariant", [False, True])
    def test_a_prompt_in_the_making_is_waited_for(self, model, invariant):
        stem = [random.Random(0).randrange(4, 300) for _ in range(6 * CHUNK)]
        runs = engine(model, invariant=invariant)
        requests = [request(str(n), [*stem, 10 + n, 11], 3) for n in range(5)]
        told = run(runs, requests)
        assert runs.stats().prefill_tokens == len(stem) + 5 * 2
        assert runs.stats().cached_tokens == 4 * len(stem)
        for wanted in requests:
            assert told.tokens(wanted.id) == told_alone(model, wanted)

    def test_whoever_waits_for_one_that_leaves_goes_on_alone(self, model):
        runs = engine(model)
        prompt = [random.Random(1).randrange(4, 300) for _ in range(60)]
        wanted = request("b", prompt, 3)
        runs.add(request("a", prompt, 3))
        runs.add(wanted)
        runs.step()
        runs.abort("a")
        assert run(runs, []).tokens("b") == told_alone(model, wanted)


class TestTrouble:
    """What is wrong with one request ends that request."""

    @pytest.mark.parametrize(
        ("prompt", "fields", "sentence"),
        [
            ([], {}, "no tokens"),
            ([5, 304], {}, "token id 304; the model's ids are 0 to 303"),
            (range(100, 200), {}, "has 100 tokens; the longest context here is 80"),
            ([5], {"max_tokens": 0}, "max_tokens = 0"),
        ],
    )
    def test_cannot_run(self, model, prompt, fields, sentence):
        fine = request("fine", [9, 10])
        told = run(engine(model, pages=10), [request("bad", prompt, **fields), fine])
        assert sentence in told.last("bad").error
        assert told.last("bad").finish == "error"
        assert told.tokens("fine") == told_alone(model, fine)

    def test_same_id(self, model):
        runs = engine(model)
        runs.add(request("a", [5]))
        with pytest.raises(ValueError, match="'a' is running already"):
            runs.add(request("a", [6]))
        runs.step()
        with pytest.raises(ValueError, match="'a' is running already"):
            runs.add(request("a", [6]))

    @pytest.mark.parametrize("invariant", [False, True])
    def test_logits_that_are_not_finite(self, invariant):
        model = noisy_model(seed=2)
        requests = [request(str(n), range(20 + n, 60 + n), 12) for n in range(4)]
        expected = [told_alone(model, wanted) for wanted in requests]
        said = {token for tokens in expected for token in tokens}
        bad = next(token for token in range(70, 150) if token not in said)
        with torch.no_grad():
            model.embed_tokens.weight[bad] = float("nan")
        poison = request("poison", [*range(150, 165), bad, *range(165, 200)])
        runs = engine(model, pages=30, invariant=invariant)
        told = run(runs, [requests[0], poison, requests[1]])
        assert "not finite" in told.last("poison").error
        later = run(runs, requests[2:])  # in pages that held what is not finite
        assert [*(told.tokens(str(n)) for n in (0, 1)), *(later.tokens(str(n)) for n in (2, 3))] == expected


class TestGrammars:
    def test_holds_while_others_run(self, model):
        runs = engine_with_tokenizer(model)
        wanted = [request("g", [5, 6], 40, grammar=Grammar(lark="start: /[0-9]{3}/")), request("free", [9, 8], 6)]
        told = run(runs, wanted)
        text = tiny_tokenizer().decode(told.tokens("g"), skip_special=True)
        assert len(text) == 3
        assert text.isdigit()
        assert told.last("g").finish == "stop"
        assert told.tokens("free") == told_alone(model, wanted[1])

    def test_that_cannot_be_compiled(self, model):
        runs = engine_with_tokenizer(model)
        wanted = request("free", [9, 8], 6)
        told = run(runs, [request("g", [5, 6], 40, grammar=Grammar(lark="start: nothing_of_that_name")), wanted])
        assert told.last("g").finish == "error"
        assert "nothing_of_that_name" in told.last("g").error
        assert told.tokens("free") == told_alone(model, wanted)

    def test_without_a_tokenizer(self, model):
        told = run(engine(model), [request("g", [5, 6], 40, grammar=Grammar(lark="start: /a/"))])
        assert "needs the model's tokenizer" in told.last("g").error

    def test_whoever_leaves_before_it_is_compiled(self, model):
        runs = engine_with_tokenizer(model)
        runs.add(request("g", [5, 6], 40, grammar=Grammar(lark="start: /[0-9]{3}/")))
        assert not runs.idle
        runs.abort("g")
        assert run(runs, []).last("g").finish == "abort"


def engine_with_tokenizer(model):
    return Engine(model, EngineOptions(page_size=8, pages=100, chunk=CHUNK), tiny_tokenizer())


class TestAbort:
    def test_frees_pages_at_once(self, model):
        runs = engine(model, prefix_cache=False)
        runs.add(request("a", range(20, 60), 50))
        for _ in range(6):
            runs.step()
        assert runs.stats().pages_used > 0
        runs.abort("a")
        assert runs.stats().pages_used == runs.stats().running == 0
        (output,) = runs.step()
        assert output.finish == "abort"
        assert output.usage.completion_tokens > 0
        assert runs.idle

    def test_before_it_ran(self, model):
        runs = engine(model, max_running=1)
        for name in "abc":
            runs.add(request(name, [5, 6], 4))
        runs.abort("c")
        runs.step()
        runs.abort("b")
        told = run(runs, [])
        assert told.last("b").finish == "abort"
        assert set(told.outputs) == {"a", "b"}

    def test_nobody(self, model):
        engine(model).abort("nobody")


@pytest.mark.parametrize("invariant", [False, True])
def test_soak(invariant):
    """Requests that come, go and leave at random, in a pool that is too small for them."""
    model = noisy_model(num_layers=1, max_position_embeddings=96)
    rng = random.Random(3)
    most = 80 if invariant else 200
    runs = engine(model, pages=16, host_pages=6, max_running=6, invariant=invariant)
    live, ended, tokens = {}, {}, defaultdict(list)
    while len(ended) < most or not runs.idle:
        if len(live) + len(ended) < most and len(live) < 30:
            name = str(len(live) + len(ended))
            stem = [40 + rng.randrange(3)] * rng.randrange(30)
            prompt = [*stem, *(rng.randrange(304) for _ in range(rng.randint(0, 40)))]
            fields = {"tenant": rng.choice("abc"), "priority": rng.randrange(2), "temperature": rng.choice([0.0, 0.7])}
            live[name] = request(name, prompt, rng.randint(1, 30), **fields)
            runs.add(live[name])
        if live and rng.random() < 0.1:
            runs.abort(rng.choice(sorted(live)))
        for output in runs.step():
            tokens[output.id] += output.tokens
            if output.finish:
                ended[output.id] = (live.pop(output.id), output)
        if rng.random() < 0.1:
            runs.check()
    runs.check()
    stats = runs.stats()
    assert len(ended) == stats.finished == most
    assert stats.running == stats.waiting == stats.swapped == stats.waiting_tokens == 0
    assert stats.pages_used == stats.host_pages_used == 0
    assert stats.preempted > 0
    assert all("no tokens" in output.error for _, output in ended.values() if output.finish == "error")
    if invariant:
        told = [wanted for wanted, output in ended.values() if output.finish in ("stop", "length")]
        for wanted in told[::8]:
            assert tokens[wanted.id] == told_alone(model, wanted)
