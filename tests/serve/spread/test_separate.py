"""Prompts computed by one engine, answers by another: the same tokens as from one, bit for bit."""

from __future__ import annotations

import socket
import threading

import pytest
import torch

from homegrown.config import MtpConfig, NgramConfig, SparseConfig
from homegrown.model import Longcat
from homegrown.serve.spread.decode import DecodeEngine
from homegrown.serve.spread.prefill import PrefillEngine
from homegrown.serve.spread.transfer import (
    Computed,
    Fetch,
    First,
    Rows,
    Welcome,
    answered,
    asked,
    connect,
    greet,
    listen,
    receive,
    send,
    shape_of,
)
from tests.serve.engine.driving import noisy_model, random_requests, request, run, told_alone

from .separate import SECRET, at, decoding, options, prefilling


@pytest.fixture(scope="module")
def model() -> Longcat:
    return noisy_model()


def check(engine: DecodeEngine, model: Longcat, requests, *prompts: PrefillEngine, seed: int | None = 1) -> None:
    told = run(engine, requests, seed, steps(*prompts))
    for wanted in requests:
        assert told.last(wanted.id).finish in ("stop", "length")
        assert told.tokens(wanted.id) == told_alone(model, wanted), wanted


def steps(*prompts: PrefillEngine):
    """What is done between the steps of the engine that answers."""

    def each() -> None:
        for engine in prompts:
            engine.step()

    return each


class TestSameAsOneEngine:
    """In batch-invariant mode, to the last bit."""

    @pytest.mark.parametrize("fields", [{}, {"temperature": 0.8, "top_p": 0.9}], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_with_drafts_and_prefix_hits(self, dtype, fields, tmp_path):
        model = noisy_model(dtype)
        requests = random_requests(model.config, 10, seed=5, most=16, **fields)
        with (
            prefilling(model, at(tmp_path), options()) as prompts,
            decoding(model, [at(tmp_path)], options()) as engine,
        ):
            check(engine, model, requests, prompts)
            stats = engine.stats()
            assert stats.lost == 0
            assert stats.prefill_tokens == 0
            assert stats.transferred > 0
            assert stats.accepted > 0
            assert stats.cached_tokens > 0
            assert prompts.stats().prefill_tokens > 0
            assert prompts.stats().decode_tokens == 0
            engine.check()

    def test_answers_make_room(self, model, tmp_path):
        """Prompts are asked for again after the pages for them were taken."""
        requests = [request(f"long {n}", [7 + n, *range(20, 50)], 40) for n in range(5)]
        requests += random_requests(model.config, 6, seed=2, most=12)
        with (
            prefilling(model, at(tmp_path), options()) as prompts,
            decoding(model, [at(tmp_path)], options(pages=17, host_pages=9)) as engine,
        ):
            check(engine, model, requests, prompts)
            assert engine.stats().preempted > 0
            assert engine.stats().lost == 0

    def test_prompts_make_room(self, model, tmp_path):
        """What of a prompt is computed again is not sent again."""
        long, urgent = request("long", range(10, 110), 5), request("urgent", range(30, 90), 5, priority=1)
        with (
            prefilling(model, at(tmp_path), options(pages=15, prefix_cache=False)) as prompts,
            decoding(model, [at(tmp_path)], options()) as engine,
        ):
            engine.add(long)
            while prompts.stats().steps < 3:
                engine.step()
                prompts.step()
            told = run(engine, [urgent], None, prompts.step)
            assert prompts.stats().preempted == 1
            assert engine.stats().lost == 0
        assert [told.tokens(one.id) for one in (long, urgent)] == [told_alone(model, one) for one in (long, urgent)]
        assert told.last("long").usage.transferred == 100

    def test_over_tcp_and_two_that_compute(self, model):
        addresses = ["127.0.0.1:0", "127.0.0.1:0"]
        with prefilling(model, addresses[0], options()) as one, prefilling(model, addresses[1], options()) as other:
            ports = [each._server.port for each in (one, other)]
            with decoding(model, [f"127.0.0.1:{port}" for port in ports], options()) as engine:
                check(engine, model, random_requests(model.config, 8, seed=7, most=8), one, other, seed=None)
                assert engine.stats().lost == 0
            assert one.stats().prefill_tokens > 0
            assert other.stats().prefill_tokens > 0

    def test_without_ngrams_or_selection_or_drafts(self, tmp_path):
        model = noisy_model(ngram=NgramConfig(), sparse=SparseConfig(), mtp=MtpConfig())
        with (
            prefilling(model, at(tmp_path), options()) as prompts,
            decoding(model, [at(tmp_path)], options()) as engine,
        ):
            check(engine, model, random_requests(model.config, 4, seed=4, most=8), prompts)
            assert engine.stats().transferred > 0

    def test_scores_and_ends(self, model, tmp_path):
        """Log probabilities of the first token come along; one token may be all; scored prompts are computed here."""
        wanted = [
            request("scores", range(10, 50), 4, logprobs=2),
            request("one", range(11, 40), 1),
            request("prompt", range(12, 40), 3, prompt_logprobs=0),
        ]
        with (
            prefilling(model, at(tmp_path), options()) as prompts,
            decoding(model, [at(tmp_path)], options()) as engine,
        ):
            told = run(engine, wanted, None, prompts.step)
        scores = [score for output in told.outputs["scores"] for score in output.scores or ()]
        assert [len(score.top) for score in scores] == [2] * 4
        assert told.tokens("one") == told_alone(model, wanted[1])
        assert len(told.outputs["prompt"][0].prompt_scores) == 28
        assert told.last("scores").usage.transferred == 40
        assert told.last("prompt").usage.transferred == 0

    def test_short_prompts_stay(self, model, tmp_path):
        requests = [request("short", range(10, 20), 3), request("long", range(10, 60), 3)]
        with (
            prefilling(model, at(tmp_path), options()) as prompts,
            decoding(model, [at(tmp_path)], options(), own=30) as engine,
        ):
            check(engine, model, requests, prompts)
            assert engine.stats().transferred == 50
            assert engine.stats().prefill_tokens == 10


def test_not_invariant(model, tmp_path):
    """Passes of other shapes: the same greedy tokens, as far as rounding goes."""
    chosen = options(invariant=False)
    with prefilling(model, at(tmp_path), chosen) as prompts, decoding(model, [at(tmp_path)], chosen) as engine:
        check(engine, model, random_requests(model.config, 8, seed=3, most=12), prompts)


def test_keys_travel_while_later_layers_compute(tmp_path):
    """The second layer does not begin before the first layer's keys have arrived."""
    model, chosen, seen = noisy_model(), options(), threading.Event()
    arrived: list[bool] = []
    model.layers["1"].register_forward_pre_hook(lambda *_: arrived.append(seen.wait(20)))
    with prefilling(model, at(tmp_path), chosen) as prompts, connect(at(tmp_path), 20) as sock:
        greet(sock, SECRET, shape_of(model.config, chosen, model.norm.weight))
        send(sock, Fetch(1, request("r", range(10, 36), 4), 0))
        thread = threading.Thread(target=compute, args=(prompts,))
        thread.start()
        messages = []
        while not messages or not isinstance(messages[-1], First):
            message, numbers = receive(sock, answered)
            messages.append(message)
            if isinstance(message, Rows) and message.slot == 1:
                assert len(numbers) == 4 * 20 * (16 if message.first == 0 else 10)
                seen.set()
        thread.join()
    assert arrived == [True, True]  # a pass for each chunk
    kinds = [(type(message).__name__, getattr(message, "slot", None)) for message in messages]
    # Two layers of two sublayers and the draft block; the first, the third and the draft block own indexers.
    assert [slot for kind, slot in kinds if kind == "Rows"][:5] == [0, 0, 1, 2, 2]
    assert [message.stop for message in messages if isinstance(message, Computed)] == [16]
    rows = [message for message in messages if isinstance(message, Rows) and message.slot == 4]
    assert rows[-1].first == 26, "the first token's row in the draft block"


class TestLosses:
    """Only the prompts under way are computed here; nothing else changes, and it is said."""

    def test_nobody_there(self, model, tmp_path, caplog):
        with decoding(model, [], options()) as engine:
            check(engine, model, random_requests(model.config, 3, seed=1, most=6))
            assert engine.stats().lost == 3
        assert caplog.text.count("nobody who computes prompts can be reached") == 1

    def test_connection_ends_in_the_middle(self, model, tmp_path, caplog):
        """What was complete is kept: from there on, the prompt is computed here."""
        wanted = request("r", range(10, 70), 10)
        chosen = options()
        with prefilling(model, at(tmp_path, "real"), chosen) as prompts:
            stop = threading.Event()
            threading.Thread(
                target=relay, args=(at(tmp_path, "relay"), at(tmp_path, "real"), stop), daemon=True
            ).start()
            while not (tmp_path / "relay").exists():
                pass
            with decoding(model, [at(tmp_path, "relay")], chosen) as engine:
                told = run(engine, [wanted], None, prompts.step)
                assert told.tokens("r") == told_alone(model, wanted)
                assert engine.stats().lost == 1
                assert told.last("r").usage.transferred == 32
                assert engine.stats().prefill_tokens == 60 - 32
            stop.set()
        assert "28 tokens of its prompt are computed here: the connection to" in caplog.text

    def test_nonsense(self, model, tmp_path, caplog):
        """Keys of a sublayer that is not there."""
        wanted, chosen = request("r", range(10, 40), 5), options()

        def lie() -> None:
            with listen(at(tmp_path)) as server:
                sock = server.accept()[0]
                receive(sock, asked)
                send(sock, Welcome())
                fetch, _ = receive(sock, asked)
                send(sock, Rows(fetch.ticket, "latent", 9, 0), bytes(80))
                receive(sock, asked)

        threading.Thread(target=lie, daemon=True).start()
        while not (tmp_path / "prompts").exists():
            pass
        with decoding(model, [at(tmp_path)], chosen) as engine:
            told = run(engine, [wanted])
        assert told.tokens("r") == told_alone(model, wanted)
        assert "sends keys that were not asked for: there are no latent keys of sublayer 9" in caplog.text

    def test_refused_prompts(self, model, tmp_path, caplog):
        """One that is too long for who computes."""
        wanted = request("r", range(10, 60), 5)
        with (
            prefilling(model, at(tmp_path), options(pages=4)) as prompts,
            decoding(model, [at(tmp_path)], options()) as engine,
        ):
            assert run(engine, [wanted], None, prompts.step).tokens("r") == told_alone(model, wanted)
            assert engine.stats().lost == 1
        assert "the prompt has 50 tokens; the longest context here is 32" in caplog.text

    def test_aborted_prompts_are_cancelled(self, model, tmp_path):
        with (
            prefilling(model, at(tmp_path), options()) as prompts,
            decoding(model, [at(tmp_path)], options()) as engine,
        ):
            for number in range(3):
                engine.add(request(str(number), [9 + number, *range(10, 250)], 5))
            while not engine._orders:
                engine.step()
            while not prompts.stats().steps:
                prompts.step()
            for number in range(3):
                engine.abort(str(number))
            while not engine.idle:
                engine.step()
            engine.check()
            while prompts.stats().finished != 3:
                prompts.step()
            assert prompts.stats().pages_used == 0


def compute(prompts: PrefillEngine) -> None:
    while not prompts.stats().finished:
        prompts.step()


def relay(address: str, real: str, stop: threading.Event) -> None:
    """Stands between both sides, and hangs up behind the second `Computed`."""
    with listen(address) as server:
        asking = server.accept()[0]
        with connect(real, 20) as answering:
            threading.Thread(target=forward, args=(asking, answering), daemon=True).start()
            seen = 0
            while seen < 2 and (got := receive(answering, answered)) is not None:
                send(asking, *got)
                seen += isinstance(got[0], Computed)
        asking.shutdown(socket.SHUT_RDWR)
    stop.wait(20)


def forward(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(1 << 16):
        target.sendall(data)
