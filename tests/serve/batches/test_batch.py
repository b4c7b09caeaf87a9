"""Input files of batches: what is wrong with them, and what remains to be done."""

import json

import pytest

from homegrown.serve.batches import batch as module
from homegrown.serve.batches.batch import check, remaining

URL = "/v1/chat/completions"


def line(custom_id="a", **changes):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": URL, "body": {}, **changes})


def written(tmp_path, *lines):
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"\n".join(text if isinstance(text, bytes) else text.encode() for text in lines))
    return path


def test_a_sound_file(tmp_path):
    path = written(tmp_path, line("a"), "", "  ", line("b"), line("c", extra=1), "")
    assert check(path, URL, 1000) == (3, [])
    assert [each.custom_id for each in remaining(path, 1000, {"b"})] == ["a", "c"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_json_line"),
        (b"\xff\xfe", "invalid_json_line"),
        ("[" * 100_000, "line_too_long"),
        ("[" * 900, "invalid_json_line"),
        ("[]", "invalid_json_line"),
        (line(body=3), "invalid_json_line"),
        (json.dumps({"custom_id": "a"}), "invalid_json_line"),
        (line("first"), "duplicate_custom_id"),
        (line(method="GET"), "invalid_method"),
        (line(url="/v1/embeddings"), "mismatched_url"),
        (line("x" * 2000), "line_too_long"),
    ],
)
def test_faults(tmp_path, text, code):
    _, faults = check(written(tmp_path, line("first"), "", text), URL, 1000)
    assert [(fault.code, fault.line) for fault in faults] == [(code, 3)]


def test_faults_are_not_listed_without_end(tmp_path):
    _, faults = check(written(tmp_path, *["{"] * 100), URL, 1000)
    assert len(faults) == module.MOST_FAULTS


def test_an_empty_file(tmp_path):
    assert [fault.code for fault in check(written(tmp_path, ""), URL, 1000)[1]] == ["empty_file"]


def test_too_many_requests(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_LINES", 2)
    _, faults = check(written(tmp_path, line("a"), line("b"), line("c")), URL, 1000)
    assert [fault.code for fault in faults] == ["too_many_requests"]
