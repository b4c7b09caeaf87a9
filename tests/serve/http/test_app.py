"""The layers around the APIs, through a real port: who may come, how much, and what they are told."""

import asyncio
import json
import logging

import anthropic
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from homegrown.serve.http.clients import Client, Keys, digest
from homegrown.serve.messages import Stats

from ..scripted import ScriptedBackend
from .live import CHAT, live, tiny_backend, until

ADA, BOB = "hg-ada-key", "hg-bob-key"
KEYS = Keys(
    {
        digest(ADA): Client(name="ada", tenant="lab", priority=3, admin=True),
        digest(BOB): Client(name="bob", tenant="bob", requests_per_minute=2, tokens_per_minute=10_000),
    }
)
HELLO = [72 + 5, 73, 74, 75]


class Busy(ScriptedBackend):
    """Says that much waits."""

    def stats(self):
        return Stats(waiting_tokens=9000, prefill_rate=100.0, step_s=0.5)


class Broken(ScriptedBackend):
    async def submit(self, request):
        raise ValueError("secret words of a prompt")
        yield


def chat(server, path="/v1/chat/completions", **headers):
    return server.ask("POST", path, CHAT, **headers)


@pytest.fixture(scope="module")
def real():
    with live(tiny_backend()) as server:
        yield server


@pytest.fixture(scope="module")
def guarded():
    with live(ScriptedBackend(HELLO), KEYS) as server:
        yield server


@pytest.fixture(scope="module")
def narrow():
    with live(ScriptedBackend(HELLO), max_body=2000) as server:
        yield server


class TestAuthentication:
    PATHS = ("/v1/models", "/v1/load", "/metrics", "/v1/usage", "/v1/nonsense")

    @pytest.mark.parametrize("path", PATHS)
    def test_a_key_is_needed_everywhere(self, guarded, path):
        status, _, body = guarded.ask("GET", path)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert guarded.ask("GET", path, x_api_key="hg-wrong-key")[0] == 401

    @pytest.mark.parametrize("path", ("/v1/models", "/v1/load", "/metrics"))
    @pytest.mark.parametrize("header", ({"x_api_key": ADA}, {"authorization": f"bearer  {ADA} "}))
    def test_either_header_does(self, guarded, path, header):
        assert guarded.ask("GET", path, **header)[0] == 200

    def test_a_stale_key_beside_a_good_one(self, guarded):
        assert guarded.ask("GET", "/v1/models", authorization="Bearer stale", x_api_key=ADA)[0] == 200

    @pytest.mark.parametrize("path", ("/", "/health", "/ready"))
    def test_open_to_all(self, guarded, path):
        assert guarded.ask("GET", path)[0] == guarded.ask("HEAD", path)[0] == 200

    def test_the_sdks_understand(self, guarded):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="nobody").models.list()
        client = anthropic.Anthropic(base_url=guarded.url, api_key="nobody")
        with pytest.raises(anthropic.AuthenticationError):
            client.messages.create(model="tiny", max_tokens=1, messages=[{"role": "user", "content": "x"}])

    def test_the_engine_learns_who_asks(self, guarded):
        assert chat(guarded, x_api_key=ADA)[0] == 200
        request = guarded.front.backend._inner.requests[-1]
        assert (request.tenant, request.priority) == ("lab", 3)

    def test_a_key_in_the_wrong_place_is_not_looked_at(self, guarded):
        assert guarded.ask("GET", f"/v1/models?api_key={ADA}")[0] == 401
        assert guarded.ask("GET", "/v1/models", authorization=f"Basic {ADA}")[0] == 401

    def test_rate_limits(self, guarded):
        first, second = chat(guarded, x_api_key=BOB), chat(guarded, x_api_key=BOB)
        assert (first[0], second[0]) == (200, 200)
        assert first[1]["x-ratelimit-limit-requests"] == "2"
        assert int(second[1]["x-ratelimit-remaining-tokens"]) < 10_000
        status, headers, body = chat(guarded, x_api_key=BOB)
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(headers["retry-after"]) <= 30
        assert headers["x-ratelimit-remaining-requests"] == "0"
        status, headers, body = chat(guarded, "/v1/messages", x_api_key=BOB)
        assert (status, body["error"]["type"]) == (429, "rate_limit_error")
        assert headers["x-should-retry"] == "true"


class TestAnswers:
    def test_ids(self, real):
        headers = real.ask("GET", "/health", x_request_id="my-id_1")[1]
        assert headers["x-request-id"] == headers["request-id"] == "my-id_1"
        for bad in ("a b", "x" * 200, ""):
            assert real.ask("GET", "/health", x_request_id=bad)[1]["x-request-id"].startswith("req_")

    def test_sessions(self, real):
        headers = chat(real, "/v1/messages?beta=true", x_claude_code_session_id="0f-9")[1]
        assert headers["x-session-id"] == "0f-9"
        assert headers["x-queue-depth"] == "0"
        assert headers["x-replica"]

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/nope", 404), ("PUT", "/v1/chat/completions", 405), ("GET", "/v1/models/", 404)],
    )
    def test_no_such_route(self, real, method, path, status):
        found, _, body = real.ask(method, path)
        assert found == status
        assert set(body["error"]) == {"message", "type", "param", "code"}

    def test_no_such_route_of_the_other_dialect(self, real):
        status, headers, body = real.ask("GET", "/v1/messages")
        assert (status, body["type"], headers["allow"]) == (405, "error", "POST")
        assert body["request_id"] == headers["request-id"]

    @pytest.mark.parametrize("path", ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"))
    @pytest.mark.parametrize(
        "body", (b"", b"{", b"\xff\xfe", b'{"model": "\xc3\x28"}', b"[" * 100_000, b"null", b"[]", b'{"model": 3}')
    )
    def test_nonsense(self, real, path, body):
        status, _, answer = real.ask("POST", path, body, content_type="application/json")
        assert status in (400, 404)
        assert answer["error"]["message"]

    def test_usage_is_off(self, real):
        assert real.ask("GET", "/v1/usage")[0] == 404

    def test_load(self, real):
        load = real.ask("GET", "/v1/load")[2]
        assert load["ready"] is True
        assert load["admitted"] == load["running"] == load["waiting"] == 0

    def test_metrics(self, real):
        before, usage = read_metrics(real), chat(real)[2]["usage"]
        until(lambda: read_metrics(real)["vllm:generation_tokens_total"] > before["vllm:generation_tokens_total"])
        after = read_metrics(real)
        grown = {name: after[name] - before.get(name, 0) for name in after}
        assert grown["vllm:prompt_tokens_total"] == usage["prompt_tokens"]
        assert grown["vllm:generation_tokens_total"] == usage["completion_tokens"]
        for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
            assert grown[f"vllm:{name}_count"] == 1
        assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
        assert 0 <= after["vllm:gpu_cache_usage_perc"] <= 1
        assert after["homegrown:pages"] > 0

    def test_paths_that_clients_make_up_are_not_labels(self, real):
        for number in range(3):
            real.ask("GET", f"/made/up/{number}")
        real.ask("GET", "/v1/models/tiny")
        text = real.ask("GET", "/metrics")[2].decode()
        assert "made/up" not in text
        assert 'path="/v1/models/{model}"' in text


def read_metrics(server):
    """Sums over labels of every sample."""
    found = {}
    for family in text_string_to_metric_families(server.ask("GET", "/metrics")[2].decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


class TestBodies:
    def chunked(self, narrow, path, chunks):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        with narrow.connect() as sock:
            sock.sendall(head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n")
            return sock.recv(1 << 16)

    def test_too_large(self, narrow):
        status, _, body = narrow.ask("POST", "/v1/chat/completions", b" " * 2001)
        assert (status, body["error"]["code"]) == (413, "request_too_large")
        status, _, body = narrow.ask("POST", "/v1/messages", b" " * 2001)
        assert (status, body["error"]["type"]) == (413, "request_too_large")
        assert narrow.ask("POST", "/v1/chat/completions", json.dumps(CHAT).encode().ljust(2000))[0] == 200

    def test_too_large_in_chunks(self, narrow):
        assert b" 413 " in self.chunked(narrow, "/v1/messages", [b" " * 500] * 5)
        assert b" 200 " in self.chunked(narrow, "/v1/messages", [json.dumps(CHAT).encode()])

    def test_all_bodies_together(self):
        with live(ScriptedBackend(HELLO), max_bodies=1000) as server:
            status, headers, _ = server.ask("POST", "/v1/messages", b" " * 1001)
            assert (status, headers["retry-after"]) == (529, "1")
            assert server.ask("POST", "/v1/messages", CHAT)[0] == 200
            assert server.ask("POST", "/v1/messages", CHAT)[0] == 200  # what was held has been let go


class TestOrigins:
    def test_pages_of_others(self, real):
        own = f"127.0.0.1:{real.port}"
        assert real.ask("GET", "/v1/models", origin=f"http://{own}")[0] == 200
        for origin in ("http://evil.example", "null", "http://[", f"http://evil.example:{real.port}"):
            status, _, body = real.ask("POST", "/v1/chat/completions", CHAT, origin=origin, content_type="text/plain")
            assert (status, body["error"]["code"]) == (403, "permission_denied")

    def test_names_that_were_made_to_point_here(self):
        with live(ScriptedBackend(HELLO), local=True) as server:
            for host in (f"evil.example:{server.port}", "[", "localhost.evil.example"):
                assert server.ask("GET", "/v1/models", host=host)[0] == 403
            for host in (f"localhost:{server.port}", f"[::1]:{server.port}", "127.0.0.1"):
                assert server.ask("GET", "/v1/models", host=host)[0] == 200

    def test_pages_that_may(self):
        with live(ScriptedBackend(HELLO), KEYS, origins=("https://chat.example",)) as server:
            asks = {"access_control_request_method": "POST", "access_control_request_headers": "x-api-key"}
            status, headers, _ = server.ask("OPTIONS", "/v1/messages", origin="https://chat.example", **asks)
            assert (status, headers["access-control-allow-origin"]) == (200, "https://chat.example")
            status, headers, _ = server.ask("POST", "/v1/messages", CHAT, origin="https://chat.example", x_api_key=ADA)
            assert (status, headers["access-control-allow-origin"]) == (200, "https://chat.example")
            assert server.ask("POST", "/v1/messages", CHAT, origin="https://evil.example", x_api_key=ADA)[0] == 403


class TestAdmission:
    def test_a_turn_that_would_come_too_late(self):
        backend = Busy(HELLO)
        with live(backend, max_ttft=60.0) as server:
            status, headers, body = chat(server)
            assert (status, headers["retry-after"]) == (429, "31")
            assert "in about 90 s" in body["error"]["message"]
            status, headers, body = chat(server, "/v1/messages")
            assert (status, body["error"]["type"], headers["retry-after"]) == (529, "overloaded_error", "31")
            assert server.ask("GET", "/v1/models")[0] == 200
            assert backend.requests == []

    def test_a_full_queue(self):
        backend = ScriptedBackend(HELLO, pause=0.3)
        with live(backend, max_waiting=2) as server:

            async def many():
                client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
                asks = [client.chat.completions.create(**CHAT) for _ in range(5)]
                return await asyncio.gather(*asks, return_exceptions=True)

            results = asyncio.run(many())
            refused = [result for result in results if isinstance(result, openai.RateLimitError)]
            assert len(refused) == 3
            assert len(backend.requests) == 2
            assert read_metrics(server)["homegrown:refused_total"] == 3

    def test_loading_and_draining(self):
        backend = ScriptedBackend(HELLO)
        with live(backend) as server:
            for state in ("starting", "dead"):
                backend.state = state
                assert server.ask("GET", "/ready")[0] == 503
                assert server.ask("GET", "/health")[0] == 200
                assert chat(server)[0] == 503
                assert chat(server, "/v1/messages")[0] == 529
            backend.state = "ready"
            assert server.ask("GET", "/ready")[0] == 200
            server.front.admission.draining = True
            assert server.ask("GET", "/ready")[2] == {"status": "draining"}
            status, headers, _ = chat(server)
            assert status == 503
            assert int(headers["retry-after"]) >= 1


class TestDepartures:
    @pytest.mark.parametrize(
        ("path", "what"),
        [
            ("/v1/chat/completions", {"messages": CHAT["messages"]}),
            ("/v1/messages", {"messages": CHAT["messages"]}),
            ("/v1/completions", {"prompt": "x"}),
            ("/v1/responses", {"input": "x"}),
        ],
    )
    @pytest.mark.parametrize("stream", (True, False))
    def test_a_client_that_leaves_frees_the_engine(self, path, what, stream):
        backend = ScriptedBackend(HELLO * 100, pause=0.05)
        body = json.dumps({"model": "tiny", **what, "stream": stream, "max_tokens": 400}).encode()
        with live(backend) as server:
            with server.connect() as sock:
                head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
                sock.sendall(head + body)
                until(lambda: bool(backend.requests))
            until(lambda: bool(backend.aborted), 5)
            until(lambda: server.front.admission.running == 0)

    def test_in_the_middle_of_a_body(self, real):
        with real.connect() as sock:
            sock.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert chat(real)[0] == 200

    def test_a_real_engine_gets_its_pages_back(self, real):
        body = json.dumps({**CHAT, "stream": True, "max_tokens": 1000, "ignore_eos": True}).encode()
        with real.connect() as sock:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            sock.sendall(head + body)
            until(lambda: b"data:" in sock.recv(1 << 16))
        until(lambda: real.front.backend.stats().running == 0, 10)
        assert real.ask("GET", "/v1/load")[2]["admitted"] == 0


class TestUsage:
    def test_per_key(self, tmp_path):
        with live(ScriptedBackend(HELLO, cached=2), KEYS, usage=tmp_path / "usage.db") as server:
            chat(server, x_api_key=ADA)
            chat(server, "/v1/messages", x_api_key=BOB)
            until(lambda: len(server.ask("GET", "/v1/usage", x_api_key=ADA)[2]["data"]) == 2)
            (own,) = server.ask("GET", "/v1/usage", x_api_key=BOB)[2]["data"]
            assert (own["name"], own["answers"], own["completion_tokens"]) == ("bob", 1, 4)
            assert own["cached_tokens"] == 2
            assert server.ask("GET", "/v1/usage?name=ada", x_api_key=BOB)[0] == 403
            (other,) = server.ask("GET", "/v1/usage?name=bob", x_api_key=ADA)[2]["data"]
            assert other == own


class TestLogs:
    def run(self, caplog, **options):
        logging.getLogger("homegrown.serve").propagate = True
        with caplog.at_level(logging.INFO, "homegrown.serve"), live(ScriptedBackend(HELLO), KEYS, **options) as server:
            body = {**CHAT, "messages": [{"role": "user", "content": "the secret words"}]}
            server.ask("POST", "/v1/messages?token=query-secret", body, x_api_key=ADA, x_session_id="s-1")
            server.ask("GET", "/v1/models", x_api_key="hg-wrong-key")
            until(lambda: len(caplog.records) >= 2)
        return [record.fields for record in caplog.records if record.name == "homegrown.serve"]

    def test_nothing_private(self, caplog):
        (first, second) = self.run(caplog)
        assert (first["path"], first["client"], first["status"], first["session"]) == (
            "/v1/messages",
            "ada",
            200,
            "s-1",
        )
        assert first["completion_tokens"] == 4
        assert first["finish"] == "stop"
        assert second["status"] == 401
        for secret in ("secret words", "query-secret", ADA, "hg-wrong"):
            assert secret not in repr((first, second))

    def test_prompts_on_demand(self, caplog):
        assert "the secret words" in self.run(caplog, log_prompts=True)[0]["prompt"]

    @pytest.mark.parametrize("stream", (True, False))
    def test_a_defect_is_told_in_the_dialect_and_its_message_to_nobody(self, caplog, capfd, stream):
        logging.getLogger("homegrown.serve").propagate = True
        with live(Broken(HELLO)) as server:
            for path, words in (("/v1/chat/completions", "server_error"), ("/v1/messages", "api_error")):
                status, _, body = server.ask("POST", path, {**CHAT, "stream": stream})
                assert (status, body["error"]["type"]) == (500, words)
                assert "secret words" not in body["error"]["message"]
            assert chat(server)[0] == 500
        from homegrown.serve.http.logs import JsonLines

        lines = [JsonLines().format(record) for record in caplog.records]
        assert any("ValueError" in line for line in lines)
        assert not any("secret words" in line for line in lines)
        assert "secret words" not in capfd.readouterr().err
