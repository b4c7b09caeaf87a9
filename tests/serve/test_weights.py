"""Serving in eight bits: what it says of size and predictions is so, and tokens hang on nothing else that runs."""

from __future__ import annotations

import asyncio
import math
import os
import signal

import pytest
import torch
import torch.nn.functional as F

import homegrown
from homegrown.cli.serve import Engine, Serve, launch_of
from homegrown.config import UsageError
from homegrown.data import Intake, open_corpus
from homegrown.data.errors import CorpusError
from homegrown.generate import SamplingConfig, generate
from homegrown.model.int8 import is_quantised, quantise
from homegrown.serve import weights as serving
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.http.model import capacity, describe
from homegrown.serve.perplexity import WINDOW, Change, Sample, Score, sample_of, score
from homegrown.serve.weights import load_for_serving
from homegrown.serve.worker.process import ProcessBackend
from homegrown.serve.worker.protocol import Launch

from .engine.driving import engine, noisy_model, random_requests, request, run, told_alone
from .tiny import TEXT, tiny_directory, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny_directory(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.py"
    file.write_text(TEXT * 3)
    return file


@pytest.fixture
def own_words():
    """What the tiny model says, which it predicts well."""
    model = tiny_model().eval()
    config = SamplingConfig(temperature=0.7, seed=3, max_tokens=120)
    windows = [[1, n, *(piece.token for piece in generate(model, None, [1, n], config))] for n in range(40, 44)]
    return model, Sample("its own words", windows, [len(window) for window in windows])


def stages_of(directory, **options):
    stages: list[str] = []
    loaded = load_for_serving(directory, "cpu", say=stages.append, **options)
    return *loaded, stages


class TestLoading:
    def test_as_stored(self, directory):
        model, tokenizer, report, stages = stages_of(directory)
        plain, _ = homegrown.load(directory)
        assert tokenizer is not None
        assert stages == ["reading weights"]
        assert not model.training
        for name, tensor in plain.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
        assert report.lines() == []
        assert report.total.bytes == sum(t.numel() * t.element_size() for t in plain.state_dict().values())

    @pytest.mark.parametrize("dtype", [None, torch.float32], ids=str)
    def test_in_eight_bits(self, directory, text, dtype):
        model, tokenizer, report, stages = stages_of(directory, dtype=dtype, weights="int8", check=str(text))
        assert tokenizer is not None
        assert is_quantised(model)
        assert not model.training
        assert model.dtype == (torch.bfloat16 if dtype is None else dtype)
        assert len(stages) == 4
        lines = report.lines()
        assert any(line.startswith("routed experts") and "100%" in line for line in lines)
        assert any(line.startswith("int8 products: ") for line in lines)
        assert str(text) in lines[-1]
        assert f"({report.change.served.perplexity / report.change.stored.perplexity - 1:+.2%})" in lines[-1]
        assert report.total.bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())
        assert report.total.bytes < 0.7 * report.total.wide_bytes
        sample = sample_of(str(text), tokenizer)
        assert report.change == Change(str(text), score(homegrown.load(directory)[0], sample), score(model, sample))

    def test_what_is_not_measured_is_said(self, directory, text, tmp_path, monkeypatch):
        def why(**options):
            model, _, report, stages = stages_of(directory, weights="int8", **options)
            assert is_quantised(model)
            assert len(stages) == 1
            assert report.change is None
            assert report.lines()[-1] == f"perplexity not measured: {report.unmeasured}"
            return report.unmeasured

        assert why(check="off") == "not asked for"
        monkeypatch.setattr(serving, "CHECKED_BYTES", 1000)
        assert "reading all" in why()
        monkeypatch.setattr(serving, "ROOM", 1e-9)
        assert "too much of this device's" in why(check=str(text))

    def test_no_tokenizer_no_text(self, directory, tmp_path):
        model, _ = homegrown.load(directory)
        homegrown.save(model, None, tmp_path / "mute")
        _, tokenizer, report, _ = stages_of(tmp_path / "mute", weights="int8")
        assert tokenizer is None
        assert "no tokenizer" in report.unmeasured

    def test_a_text_that_is_not_there(self, directory):
        with pytest.raises(CorpusError, match="no such file"):
            load_for_serving(directory, weights="int8", check="nowhere.txt")


class TestPerplexity:
    def test_a_score_is_the_cross_entropy(self, own_words):
        model, sample = own_words
        with torch.inference_mode():
            nats = 0.0
            for window in sample.windows:
                tokens = torch.tensor([window])
                nats += float(F.cross_entropy(model(tokens)[0, :-1].double(), tokens[0, 1:], reduction="sum"))
        got = score(model, sample)
        tokens = sum(len(window) - 1 for window in sample.windows)
        assert got.nats == pytest.approx(nats, rel=1e-5)
        assert (got.tokens, got.text_bytes, got.windows) == (tokens, sum(sample.text_bytes), 4)
        assert got.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)
        assert got.bits_per_byte == pytest.approx(nats / math.log(2) / sum(sample.text_bytes), rel=1e-5)

    def test_eight_bits_hardly_change_it(self, own_words):
        model, sample = own_words
        before = score(model, sample)
        assert before.perplexity < 100  # of 304 tokens
        after = score(quantise(model), sample)
        assert after.perplexity == pytest.approx(before.perplexity, rel=0.02)
        assert after.nats != before.nats

    def test_as_many_windows_as_time_allows(self, own_words):
        model, sample = own_words
        some = score(model, sample, seconds=-1)
        assert some.windows == 1
        assert some == score(model, sample.first(1))

    def test_the_default_is_what_the_quickstart_holds_out(self):
        tokenizer = tiny_tokenizer()
        sample = sample_of("stdlib", tokenizer, 2000)
        held = [item.text for item in Intake([open_corpus("stdlib")]).documents() if item.held]
        starts = [tokenizer.decode(window[1:41]) for window in sample.windows]
        assert all(window[0] == tokenizer.bos_id and len(window) <= WINDOW for window in sample.windows)
        assert all(any(document.startswith(start) for document in held) for start in starts)
        assert 2000 <= sum(len(window) - 1 for window in sample.windows) <= 2000 + WINDOW

    def test_a_text_is_cut_into_windows(self, tmp_path):
        tokenizer = tiny_tokenizer()
        (tmp_path / "long.txt").write_text(TEXT * 40)
        sample = sample_of(str(tmp_path / "long.txt"), tokenizer, 1500)
        said = b"".join(tokenizer.decode_bytes(window[1:]) for window in sample.windows)
        assert len(sample.windows) == 3
        assert (TEXT * 40).encode().startswith(said)
        assert sum(sample.text_bytes) == len(said)

    def test_nothing_to_score(self, tmp_path):
        (tmp_path / "empty.txt").write_text(" \n")
        with pytest.raises(CorpusError, match="no documents"):
            sample_of(str(tmp_path / "empty.txt"), tiny_tokenizer())

    def test_the_sentence(self):
        change = Change("a text", Score(1000.0, 500, 2000, 1), Score(1001.0, 500, 2000, 1))
        assert str(change) == (
            "perplexity 7.389 as stored, 7.404 as served (+0.20%); 0.7213 and 0.7221 bits a byte (+0.0007); 500 tokens "
            "of a text"
        )


class TestEngine:
    """An engine says what `homegrown generate` says, as it does with weights that are not rounded."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_invariant(self, dtype):
        model = quantise(noisy_model(dtype))
        requests = [request(f"long {n}", [7 + n, 9], 30) for n in range(2)]
        requests += random_requests(model.config, 7, seed=3, most=12)
        runs = engine(model, invariant=True, pages=16, host_pages=10, max_running=9)
        told = run(runs, requests, seed=1)
        for wanted in requests:
            assert told.tokens(wanted.id) == told_alone(model, wanted), wanted
        assert runs.stats().accepted > 0

    def test_normal(self):
        model = quantise(noisy_model())
        requests = random_requests(model.config, 5, seed=2, most=10)
        told = run(engine(model), requests, seed=2)
        for wanted in requests:
            assert told.tokens(wanted.id) == told_alone(model, wanted), wanted


class TestServing:
    def test_flags_that_do_not_go_together(self, directory):
        serve = Serve(model=directory, engine=Engine(weights_check="off"))
        with pytest.raises(UsageError, match="add --weights int8"):
            launch_of(serve)
        launch = launch_of(Serve(model=directory, engine=Engine(weights="int8", weights_check="off")))
        assert (launch.weights, launch.weights_check) == ("int8", "off")

    def test_the_key_cache_is_counted_in_the_dtype_of_activations(self, directory):
        options = EngineOptions(page_size=8, memory=1 << 20)
        stored, rounded = describe(directory), describe(directory, weights="int8")
        assert (stored.dtype, stored.quantization) == (torch.float32, "fp32")
        assert (rounded.dtype, rounded.quantization) == (torch.bfloat16, "int8")
        assert describe(directory, "float32", "int8").dtype == torch.float32
        assert capacity(rounded, options) > 1.9 * capacity(stored, options)

    def test_a_worker(self, directory, text):
        """It says what became of the weights once, and not again when it has to come back."""
        stages: list[str] = []
        launch = Launch(
            directory=str(directory), device="cpu", threads=1, weights="int8", weights_check=str(text),
            options=EngineOptions(page_size=8, pages=40, chunk=16),
        )  # fmt: skip

        async def life() -> None:
            backend = ProcessBackend(launch, lambda loading: stages.append(loading.stage), backoff=0.01)
            await backend.start()
            wanted = request("a", [9, 8], 5)
            outputs = [output async for output in backend.submit(wanted)]
            model, _, _ = load_for_serving(directory, weights="int8", check="off")
            assert [token for output in outputs for token in output.tokens] == told_alone(model, wanted)
            assert any(stage.startswith("perplexity ") and str(text) in stage for stage in stages)
            stages.clear()
            os.kill(backend.pid, signal.SIGKILL)
            async with asyncio.timeout(60):
                while "making room for keys" not in stages:
                    await asyncio.sleep(0.02)
            assert "perplexity not measured: not asked for" in stages
            await backend.close()

        asyncio.run(life())
