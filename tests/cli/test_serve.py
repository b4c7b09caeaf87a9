"""`homegrown serve`: its arguments, its mistakes in one sentence, and its life as a process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anthropic
import openai
import pytest
import tyro
from tests.serve.http.live import until
from tests.serve.tiny import tiny_directory

from homegrown.cli.main import main
from homegrown.cli.serve import Serve, keys_of, secret
from homegrown.config import UsageError

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "print"}]}
LONG = {**ASK, "max_tokens": 1500, "logit_bias": {"77": 100}}
"""The same letter over and over, to the last token allowed."""
FLAGS = ("--port", "0", "--model-id", "tiny", "--pages-memory", "20MB", "--threads", "1", "--thinking", "off")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny_directory(tmp_path_factory.mktemp("serve"))


class Process:
    """A server in a process of its own; what it says goes to a file, since nobody reads all the time."""

    def __init__(self, directory, *flags, **environment):
        command = [sys.executable, "-m", "homegrown", "serve", str(directory), *FLAGS, *flags]
        handle, name = tempfile.mkstemp(suffix=".log")
        self.log = Path(name)
        self.child = subprocess.Popen(command, stderr=handle, env={**os.environ, "COLUMNS": "200", **environment})
        os.close(handle)
        until(lambda: self.said.rstrip().endswith("}'") or self.child.poll() is not None, 60)
        assert self.child.poll() is None, self.said  # the example of a request comes last
        self.url = re.search(r"url\s+(\S+)", self.said)[1]
        self.port = int(self.url.rpartition(":")[2])

    @property
    def said(self):
        return self.log.read_text()

    def openai(self, **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="x", **{"max_retries": 0, **options})

    def anthropic(self, **options):
        return anthropic.Anthropic(base_url=self.url, api_key="x", **{"max_retries": 0, **options})

    def status(self, path):
        try:
            return urllib.request.urlopen(f"{self.url}{path}", timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code

    def engine(self):
        """The process of the engine: the server's only child."""
        return int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(self.child.pid)]).split()[0])

    def end(self, timeout=20):
        return self.child.wait(timeout)


@contextmanager
def serving(directory, *flags, **environment):
    process = Process(directory, *flags, **environment)
    try:
        yield process
    finally:
        if process.child.poll() is None:
            process.child.terminate()
            process.end()
        process.log.unlink()


def fails(capsys, *argv, status=1):
    """The one sentence on stderr."""
    assert main(["serve", *map(str, argv)]) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def arguments(*argv):
    return tyro.cli(tyro.conf.OmitArgPrefixes[Serve], args=["DIR", *argv])


class TestArguments:
    def test_help_is_grouped(self, capsys):
        assert main(["serve", "--help"]) == 0
        out = capsys.readouterr().out
        for words in ("Where it listens.", "How the model runs.", "Who may come. ", "What is written down."):
            assert words in out

    def test_who_may_come(self, monkeypatch, tmp_path):
        monkeypatch.delenv("HOMEGROWN_API_KEY", raising=False)
        for host in ("127.0.0.1", "::1", "localhost"):
            assert len(keys_of(arguments("--host", host))) == 0
        with pytest.raises(UsageError, match="there are no keys; name some by --keys"):
            keys_of(arguments("--host", "0.0.0.0"))
        assert len(keys_of(arguments("--host", "0.0.0.0", "--open"))) == 0
        monkeypatch.setenv("HOMEGROWN_API_KEY", "hg-one-key,hg-two-key")
        (tmp_path / "keys.toml").write_text(f"[keys.ada]\nsha256 = '{'0' * 64}'\n")
        more = ("--api-key", "hg-three-key", "--api-key", "hg-four-key", "--keys", str(tmp_path / "keys.toml"))
        assert len(keys_of(arguments("--host", "0.0.0.0", *more))) == 5

    def test_a_short_secret(self, monkeypatch):
        monkeypatch.setenv("HOMEGROWN_SECRET", "short")
        with pytest.raises(UsageError, match="shorter than 16"):
            secret()

    def test_a_new_key(self, capsys, tmp_path):
        from homegrown.serve.http.clients import Keys, read_keys

        assert main(["serve", "key", "ada"]) == 0
        out = capsys.readouterr().out
        (tmp_path / "keys.toml").write_text(out)
        key = re.search(r"hg-\S+", out)[0]
        assert Keys(read_keys(tmp_path / "keys.toml")).find(key).name == "ada"

    def test_no_usage(self, capsys, tmp_path):
        assert "usage.db: no such file" in fails(capsys, "usage", tmp_path)


class TestMistakes:
    @pytest.fixture
    def copy(self, directory, tmp_path):
        return shutil.copytree(directory, tmp_path / "copy")

    def test_no_directory(self, capsys, tmp_path):
        assert "no such directory" in fails(capsys, tmp_path / "none", "--port", 0)

    def test_the_port_is_taken(self, capsys, directory):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
            said = fails(capsys, directory, "--port", port)
        assert said.endswith(
            f"port {port} of 127.0.0.1 cannot be used: Address already in use; choose another by --port, or 0 for any"
        )

    def test_no_such_host(self, capsys, directory):
        assert "no such host" in fails(capsys, directory, "--host", "no.such.host.invalid", "--open")

    def test_no_tokenizer(self, capsys, copy):
        (copy / "tokenizer.json").unlink()
        assert "there is no tokenizer.json" in fails(capsys, copy, "--port", 0)

    def test_a_checkpoint_of_another_config(self, capsys, copy):
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "q_lora_rank": 17}))
        assert "q_a_proj" in fails(capsys, copy, "--port", 0)

    def test_lengths_that_cannot_be(self, capsys, directory):
        assert "--max-model-len 4096: must be" in fails(
            capsys, directory, "--port", 0, "--max-model-len", 4096, status=2
        )
        assert "--max-output 9999: must be" in fails(capsys, directory, "--port", 0, "--max-output", 9999, status=2)
        assert "--pages-memory" in fails(
            capsys, directory, "--port", 0, "--pages-memory", "100KB", "--max-model-len", 2048, status=2
        )

    def test_no_certificate(self, capsys, directory, tmp_path):
        (tmp_path / "cert.pem").write_text("nonsense")
        said = fails(capsys, directory, "--port", 0, "--tls-cert", tmp_path / "cert.pem")
        assert "cert.pem: no certificate with its key" in said
        assert "No such file" in fails(capsys, directory, "--port", 0, "--tls-cert", tmp_path / "none.pem")

    def test_an_engine_that_does_not_start(self, directory):
        command = [sys.executable, "-m", "homegrown", "serve", str(directory), *FLAGS, "--device", "warp"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "warp" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def server(directory, tmp_path_factory):
    with serving(directory, "--state", str(tmp_path_factory.mktemp("state"))) as server:
        yield server


class TestLife:
    def test_it_says_what_was_chosen(self, server):
        for words in ("tiny, anthropic/tiny", "2,048 tokens", "3 tokens at a time", "pages of 32 tokens", "curl http"):
            assert words in server.said

    def test_both_sdks(self, server):
        chat = server.openai().chat.completions.create(**ASK, max_tokens=5)
        assert chat.usage.completion_tokens <= 5
        message = server.anthropic().messages.create(**{**ASK, "model": "anthropic/tiny"}, max_tokens=5)
        assert message.usage.output_tokens <= 5

    def test_three_hundred_at_once(self, server):
        client = server.openai(timeout=60, max_retries=8)

        def ask(number):
            create = client.chat.completions.create
            return create(model="tiny", messages=[{"role": "user", "content": f"{number}"}], max_tokens=2)

        with ThreadPoolExecutor(300) as pool:
            answers = list(pool.map(ask, range(300)))
        assert all(answer.choices[0].finish_reason for answer in answers)
        assert server.status("/ready") == 200

    def test_a_killed_engine(self, server):
        """Whoever is being answered is told in the words of his API, and the next one is answered by a new engine."""
        openai_stream = server.openai().chat.completions.create(**LONG, stream=True)
        anthropic_stream = server.anthropic().messages.create(
            **ASK, max_tokens=500, stream=True, extra_body={"temperature": 0}
        )
        next(iter(openai_stream)), next(iter(anthropic_stream))
        os.kill(server.engine(), signal.SIGKILL)
        with pytest.raises(openai.APIError, match="engine"):
            list(openai_stream)
        with pytest.raises(anthropic.APIError, match="engine"):
            list(anthropic_stream)
        assert server.status("/health") == 200
        assert server.openai(max_retries=10).chat.completions.create(**ASK, max_tokens=2).usage
        assert server.status("/ready") == 200


def test_a_gentle_end(directory, capsys, tmp_path):
    """After SIGTERM a running answer is finished, new ones are refused, and the status is 0."""
    state = str(tmp_path / "state")
    with serving(directory, "--state", state, "--log", "json", HOMEGROWN_API_KEY="hg-the-key") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="hg-the-key", max_retries=0)
        many = {**LONG, "max_tokens": 100}
        stream = client.chat.completions.create(**many, stream=True)
        first = next(iter(stream))
        server.child.send_signal(signal.SIGTERM)
        until_draining(server)
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(**LONG)
        assert refused.value.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) >= 1
        *_, last = stream
        assert last.choices[0].finish_reason == "length"
        assert first.id == last.id
        assert server.end() == 0
        said = server.said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines if line.get("path") == "/v1/chat/completions"] == [503, 200]
    assert "hg-the-key" not in said
    assert main(["serve", "usage", state]) == 0
    assert re.search(r"key-\w+ +tiny +1 +\d+ +0 +100", capsys.readouterr().out)


def test_patience_has_an_end(directory):
    with serving(directory, "--drain-s", "0.5") as server:
        stream = server.openai().chat.completions.create(**LONG, stream=True)
        next(iter(stream))
        began = time.monotonic()
        server.child.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError):
            list(stream)
        assert server.end() == 0
        assert time.monotonic() - began < 10


def test_a_second_signal_ends_at_once(directory):
    with serving(directory, "--drain-s", "100") as server:
        stream = server.openai().chat.completions.create(**LONG, stream=True)
        next(iter(stream))
        engine = server.engine()
        server.child.send_signal(signal.SIGTERM)
        until_draining(server)
        server.child.send_signal(signal.SIGTERM)
        server.end(timeout=10)
        with pytest.raises(ProcessLookupError):
            os.kill(engine, 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls(directory, tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    with serving(directory, "--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        context.check_hostname = False
        assert urllib.request.urlopen(f"{server.url}/ready", context=context).status == 200


def until_draining(server):
    until(lambda: server.status("/ready") == 503)
