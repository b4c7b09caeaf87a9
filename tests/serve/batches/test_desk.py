"""Files and batches through the official SDK, and across restarts and kills."""

import io
import json
import time

import openai
import pytest

from homegrown.config import UserError
from homegrown.serve.batches.desk import Desk
from homegrown.serve.http.clients import Client, Keys, digest
from homegrown.serve.http.options import Options

from ..http.live import CHAT, live, tiny_backend, until
from ..scripted import ScriptedBackend

HELLO = [77, 78, 79, 80]
CHATS = "/v1/chat/completions"


def sdk(server, key="x"):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def lines(count, url=CHATS, **changes):
    body = {**CHAT, **changes}
    requests = [{"custom_id": f"r{n}", "method": "POST", "url": url, "body": body} for n in range(count)]
    return "\n".join(map(json.dumps, requests)).encode()


def begin(client, data, endpoint=CHATS, **options):
    file = client.files.create(file=("in.jsonl", io.BytesIO(data)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def ended(client, batch, *statuses):
    until(lambda: client.batches.retrieve(batch.id).status in (statuses or ("completed", "failed")))
    return client.batches.retrieve(batch.id)


def content(client, file_id):
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_files(tmp_path):
    with live(ScriptedBackend(HELLO), files=tmp_path) as server:
        client = sdk(server)
        data = "é\n".encode() * 100_000
        file = client.files.create(
            file=("../in put.jsonl", io.BytesIO(data)), purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )  # fmt: skip
        assert (file.bytes, file.purpose, file.object, file.filename) == (len(data), "batch", "file", "../in put.jsonl")
        assert file.expires_at == file.created_at + 3600
        assert client.files.retrieve(file.id) == file
        assert client.files.content(file.id).read() == data
        more = client.files.create(file=b"{}", purpose="batch")
        assert [each.id for each in client.files.list(limit=1)] == [more.id, file.id]  # in pages of one
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        for purpose in ("assistants", "batch_output"):
            with pytest.raises(openai.BadRequestError, match="purpose"):
                client.files.create(file=b"{}", purpose=purpose)


def test_upload_nonsense(tmp_path):
    with live(ScriptedBackend(HELLO), files=tmp_path, max_upload=1000) as server:
        for body, kind in (
            (b"", "multipart/form-data; boundary=x"),
            (b"--x\r\n\r\nabc", "multipart/form-data; boundary=x"),
        ):
            status, _, answer = server.ask("POST", "/v1/files", body, content_type=kind)
            assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
        assert server.ask("POST", "/v1/files", b"{}", content_type="application/json")[0] == 400
        with pytest.raises(openai.APIStatusError) as raised:
            sdk(server).files.create(file=b"x" * 1001, purpose="batch")
        assert raised.value.status_code == 413


@pytest.mark.parametrize("url", (CHATS, "/v1/completions", "/v1/responses", "/v1/messages"))
def test_a_batch_on_a_real_engine(tmp_path, url):
    changes = {"/v1/completions": {"prompt": "x"}, "/v1/responses": {"input": "x", "messages": None}}
    data = lines(3, url, **changes.get(url, {}))
    with live(tiny_backend(), files=tmp_path, usage=tmp_path / "usage.db") as server:
        client = sdk(server)
        batch = ended(client, begin(client, data, url, metadata={"for": "test"}))
        assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
        assert batch.request_counts.to_dict() == {"total": 3, "completed": 3, "failed": 0}
        assert batch.metadata == {"for": "test"}
        assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
        results = content(client, batch.output_file_id)
        assert {result["custom_id"] for result in results} == {"r0", "r1", "r2"}
        assert all(result["response"]["body"]["usage"] for result in results)
        until(lambda: sum(day["answers"] for day in server.ask("GET", "/v1/usage")[2]["data"]) == 3)


def test_wrong_lines_go_to_the_error_file(tmp_path):
    data = lines(2) + b"\n" + lines(1, messages=3).replace(b"r0", b"bad")
    with live(ScriptedBackend(HELLO), files=tmp_path) as server:
        client = sdk(server)
        batch = ended(client, begin(client, data))
        assert batch.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
        (bad,) = content(client, batch.error_file_id)
        assert (bad["custom_id"], bad["response"]["status_code"]) == ("bad", 400)
        assert bad["response"]["body"]["error"]["param"] == "messages"


def test_a_wrong_file_fails(tmp_path):
    with live(ScriptedBackend(HELLO), files=tmp_path) as server:
        client = sdk(server)
        batch = ended(client, begin(client, lines(2).replace(b"r1", b"r0")))
        assert batch.status == "failed"
        assert [(error.code, error.line) for error in batch.errors.data] == [("duplicate_custom_id", 2)]


def test_a_wrong_batch_is_refused(tmp_path):
    with live(ScriptedBackend(HELLO), files=tmp_path) as server:
        client = sdk(server)
        file = client.files.create(file=lines(1), purpose="batch")
        good = {"input_file_id": file.id, "endpoint": CHATS, "completion_window": "24h"}
        for wrong in ({"endpoint": "/v1/embeddings"}, {"completion_window": "1h"}):
            with pytest.raises(openai.BadRequestError):
                client.batches.create(**{**good, **wrong})
        with pytest.raises(openai.NotFoundError):
            client.batches.create(**{**good, "input_file_id": "file-../../x"})
        for number in range(3):
            client.batches.create(**good, metadata={"n": str(number)})
        assert [batch.metadata["n"] for batch in client.batches.list(limit=2)] == ["2", "1", "0"]


def test_cancelling(tmp_path):
    backend = ScriptedBackend(HELLO, pause=0.1)
    with live(backend, files=tmp_path, batch_running=2) as server:
        client = sdk(server)
        batch = begin(client, lines(50))
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1)
        with pytest.raises(openai.ConflictError):
            client.files.delete(batch.input_file_id)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = ended(client, batch, "cancelled")
        counts = batch.request_counts
        assert 1 <= counts.completed < 50
        assert len(content(client, batch.output_file_id)) == counts.completed
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)


def test_the_lowest_priority_and_few_at_a_time(tmp_path):
    backend = ScriptedBackend(HELLO, pause=0.02)
    with live(backend, files=tmp_path, batch_running=3) as server:
        client = sdk(server)
        batch = begin(client, lines(9))
        until(lambda: len(backend.requests) >= 3)
        assert server.ask("POST", CHATS, CHAT)[0] == 200
        ended(client, batch)
        metrics = server.ask("GET", "/metrics")[2].decode()
    assert 'time_to_first_token_seconds_count{model_name="tiny"} 1.0' in metrics  # nobody waited for the others
    assert sorted({request.priority for request in backend.requests}) == [-1_000_000, 0]


def test_a_restart_goes_on_where_it_was(tmp_path):
    with live(ScriptedBackend(HELLO, pause=0.1), files=tmp_path, batch_running=2) as server:
        client = sdk(server)
        batch = begin(client, lines(12))
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 2)
    (results,) = (tmp_path / "batches").glob("*.results")
    with results.open("ab") as file:
        file.write(b'{"id": "cut off in the mid')  # as a kill would leave it
    second = ScriptedBackend(HELLO)
    with live(second, files=tmp_path) as server:
        client = sdk(server)
        batch = ended(client, batch)
        assert batch.request_counts.to_dict() == {"total": 12, "completed": 12, "failed": 0}
        results = content(client, batch.output_file_id)
        assert sorted(result["custom_id"] for result in results) == sorted(f"r{n}" for n in range(12))
        assert len(second.requests) <= 10  # what was done was not done again


def test_it_waits_for_the_engine(tmp_path):
    backend = ScriptedBackend(HELLO)
    with live(backend, files=tmp_path) as server:
        client = sdk(server)
        backend.state = "dead"
        batch = begin(client, lines(2))
        until(lambda: client.batches.retrieve(batch.id).status == "in_progress")
        time.sleep(0.1)
        assert backend.requests == []
        backend.state = "ready"
        assert ended(client, batch).request_counts.completed == 2


def test_too_late(tmp_path):
    with live(ScriptedBackend(HELLO, pause=0.1), files=tmp_path, batch_running=1) as server:
        client = sdk(server)
        batch = begin(client, lines(50))
        until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1)
        server.front.desk.get("", batch.id).expires_at = int(time.time())
        batch = ended(client, batch, "expired")
        counts = batch.request_counts
        assert counts.completed + counts.failed == 50
        errors = content(client, batch.error_file_id)
        assert len(errors) == counts.failed
        assert {error["error"]["code"] for error in errors} == {"batch_expired"}


def test_tenants_do_not_see_each_other(tmp_path):
    keys = Keys({digest(f"hg-{name}"): Client(name=name, tenant=name, tokens_per_day=20) for name in ("ada", "bob")})
    with live(ScriptedBackend(HELLO), keys, files=tmp_path) as server:
        ada, bob = sdk(server, "hg-ada"), sdk(server, "hg-bob")
        batch = begin(ada, lines(30))
        assert list(bob.files.list()) == list(bob.batches.list()) == []
        for attempt in (lambda: bob.batches.retrieve(batch.id), lambda: bob.files.content(batch.input_file_id)):
            with pytest.raises(openai.NotFoundError):
                attempt()
        batch = ended(ada, batch)
        assert 1 <= batch.request_counts.completed < 30  # the budget ended it
        error = content(ada, batch.error_file_id)[0]["response"]["body"]["error"]
        assert error["code"] == "insufficient_quota"


def test_two_servers_do_not_share_a_directory(tmp_path):
    options = Options()
    first = Desk(tmp_path, options, lambda: True, lambda client: None)
    with pytest.raises(UserError, match="another server"):
        Desk(tmp_path, options, lambda: True, lambda client: None)
    assert first
