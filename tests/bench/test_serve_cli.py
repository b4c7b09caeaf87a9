"""`homegrown bench serve` from its arguments to its record."""

import json
import sys
import urllib.error
import urllib.request

import pytest

from homegrown.bench.serve import overhead, peer
from homegrown.bench.serve.child import running
from homegrown.bench.serve.standin import write_standin
from homegrown.cli import bench
from homegrown.config import ConfigError, UsageError, UserError
from homegrown.hub import load

from .serving import Script, Scripted, listening


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """In an empty folder; this process goes on to run other tests, so its threads stay as they are."""
    monkeypatch.setattr("homegrown.device.set_threads", lambda count: 1)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_standin("quickstart", tmp_path_factory.mktemp("random") / "model")


def run(*arguments):
    assert bench.run(["serve", *arguments]) == 0


def refused(*arguments):
    with pytest.raises((UsageError, UserError)) as caught:
        bench.run(["serve", *arguments])
    return str(caught.value)


def test_a_record_says_what_was_measured_and_where(tmp_path, capsys):
    answers = iter([Script(), *[Script(cached=5, accepted=1, rejected=1)] * 3, Script(status=503)])
    scripted = Scripted(lambda body: next(answers))
    with listening(scripted) as url:
        run("steady", "--url", url, "--requests", "4", "--input", "6", "--output", "2", "--warmup", "1",
            "--concurrency", "1", "--slo-ttft", "5000")  # fmt: skip
    (path,) = (tmp_path / "benchmarks").glob("*-serve-steady.json")
    record = json.loads(path.read_text())
    assert (record["kind"], record["scenario"], record["model_id"]) == ("serve", "steady", "scripted")
    assert record["origin"]["command"].startswith("homegrown bench serve steady --url http://127.0.0.1:")
    assert record["origin"].keys() >= {"commit", "device", "versions", "threads"}
    assert (record["completed"], record["failed"], record["errors_by_kind"]) == (3, 1, {"HTTP 503": 1})
    assert (record["num_prompts"], record["request_rate"], record["max_concurrency"]) == (4, "inf", 1)
    assert record["load"]["input"] == "6" and not record["exact_lengths"]
    assert record["goodput_share"] == 0.75
    assert len(record["ttfts"]) == len(record["itls"]) == len(record["request_groups"]) == 4
    out = capsys.readouterr().out
    assert "output tokens/s, " in out and "3 completed, 1 failed" in out
    assert "prefix cache: 50.0% of prompt tokens, in 3 of 3 requests" in out
    assert "speculation: 50.0% of drafted tokens accepted" in out
    assert "such as: HTTP 503: the queue is full" in out
    assert f"record: {path.relative_to(tmp_path)}" in out


def test_exact_lengths_and_rounds(folder, tmp_path):
    with listening(Scripted(lambda body: Script())) as url:
        run("chat", "--url", url, "--requests", "2", "--rate", "0", "--tokenizer", str(folder), "--repetitions", "3",
            "--out", "here.json")  # fmt: skip
    record = json.loads((tmp_path / "here.json").read_text())
    assert record["exact_lengths"] and record["endpoint_type"] == "openai-chat"
    assert record["completed"] == 6
    (contestant,) = record["contestants"]
    assert len(contestant["rounds"]["output_throughput"]["values"]) == 3


def test_a_server_that_refuses_everything_is_not_measured():
    with listening(Scripted(lambda body: Script(status=401))) as url:
        assert "answers no request: HTTP 401: the queue is full" in refused("--url", url)


class TestRefusals:
    def test_one_server(self):
        assert "name one server: --url URL" in refused("steady")
        assert "name one server" in refused("steady", "--url", "http://x", "--random", "tiny")

    def test_scenario(self):
        assert "no scenario 'chats'; there are: steady, chat" in refused("chats")
        assert "the scenario comes first, as in" in refused("--url", "http://x", "prefix")

    def test_peer(self):
        assert "start servers themselves" in refused("steady", "--url", "http://x", "--peer", "transformers")
        assert "once; choose a load with --turns 1" in refused("agent", "--random", "tiny", "--peer", "transformers")

    def test_random(self):
        with pytest.raises(ConfigError, match="no random model 'large'; there are: quickstart, tiny, small, sparse"):
            bench.run(["serve", "--random", "large"])

    def test_peer_is_missing(self, tmp_path):
        fake = tmp_path / "python"
        fake.write_text("#!/bin/sh\necho False\n")
        fake.chmod(0o755)
        with pytest.raises(UserError, match=r"-m pip install 'transformers\[serving\]'"):
            peer.refuse_missing_server(str(fake))
        with pytest.raises(UserError, match="No such file or directory; name an interpreter that has transformers"):
            peer.refuse_missing_server(str(tmp_path / "none"))


class TestChild:
    def test_runs_while_the_block_runs(self):
        command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
        with running(command, "/") as url, urllib.request.urlopen(url) as response:
            assert response.status == 200
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url)

    def test_one_that_ends_says_why(self):
        command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
        with pytest.raises(UserError, match=r"(?s)ended with status 1; it said:\nno such model"), running(command, "/"):
            pass


class TestStandIn:
    def test_says_nothing_but_text(self, folder):
        import torch

        model, tokenizer = load(folder)
        with torch.inference_mode():
            heads = model(torch.arange(60, 1000)[None])[0].argmax(-1).tolist()
        assert min(heads) > 20 and max(heads) < tokenizer.vocab_size
        assert all("�" not in tokenizer.decode([token]) for token in heads)
        assert len(set(heads)) > 100

    def test_transformers_loads_it(self, folder):
        transformers = pytest.importorskip("transformers")
        model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values())
        assert model.generation_config.do_sample is False


class TestRealServer:
    def test_measures_homegrown_serve(self, folder, tmp_path):
        run("steady", "--model", str(folder), "--requests", "4", "--input", "20", "--output", "5", "--out", "real.json")
        record = json.loads((tmp_path / "real.json").read_text())
        assert (record["completed"], record["failed"], record["short_answers"]) == (4, 0, 0)
        assert record["output_lens"] == [5] * 4
        assert record["input_lens"] == [21] * 4  # and the token that opens every text

    def test_prefix_hits(self, folder, tmp_path):
        run("prefix", "--model", str(folder), "--requests", "2", "--prefix", "96", "--prefixes", "1",
            "--input", "8,40", "--serve=--page-size 16", "--out", "real.json")  # fmt: skip
        record = json.loads((tmp_path / "real.json").read_text())
        assert {row["group"]: row["median_cached_tokens"] for row in record["prefix_table"]} == {"hit": 96, "cold": 0}
        assert record["prefix_line"].keys() == {"ms_per_new_token", "ms_at_zero", "r2"}
        assert "--page-size" in record["serve_arguments"]

    def test_overhead(self, folder, tmp_path, monkeypatch, capsys):
        for name, value in {"PROMPT": 16, "ANSWER": 12, "QUEUES": (0, 40, 0), "_STEPS": 4, "_SETTLE": 1}.items():
            monkeypatch.setattr(overhead, name, value)
        run("--model", str(folder), "--overhead", "--repetitions", "2", "--out", "real.json")
        found = json.loads((tmp_path / "real.json").read_text())["overhead"]
        engine, http = found["engine_ms"], found["http_ms"]
        assert len(engine["values"]) == len(http["values"]) == 2
        assert found["share"] == pytest.approx(http["median"] / engine["median"] - 1)
        assert [queued["waiting"] for queued in found["queued"]] == [0, 40, 0]
        assert all(queued["step_ms"]["median"] > 0 for queued in found["queued"])
        assert "to the engine's own time a token" in capsys.readouterr().out
