"""Keys: what a file of them says, and who holds which."""

import hashlib

import pytest

from homegrown.config import ConfigError
from homegrown.serve.http.clients import Client, Keys, entry, new_key, plain_keys, read_keys

ADA = "hg-ada-secret"


def written(tmp_path, text):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return path


def test_a_made_key_is_found_again(tmp_path):
    key = new_key()
    path = written(tmp_path, entry("ada b", key) + "tokens_per_minute = 5\n")
    keys = Keys(read_keys(path))
    assert keys.find(key) == Client(name="ada b", tenant="ada b", tokens_per_minute=5)
    assert keys.find(key + "x") is None
    assert key not in path.read_text()


def test_all_settings(tmp_path):
    digest = hashlib.sha256(ADA.encode()).hexdigest()
    settings = 'tenant = "lab"\npriority = -2\nrequests_per_minute = 1\ntokens_per_minute = 2\ntokens_per_day = 3\n'
    settings += "tokens_per_month = 4\nconcurrent = 5\nadmin = true\n"
    (client,) = read_keys(written(tmp_path, f'[keys.ada]\nsha256 = "{digest}"\n{settings}')).values()
    assert client == Client(
        name="ada", tenant="lab", priority=-2, requests_per_minute=1, tokens_per_minute=2, tokens_per_day=3,
        tokens_per_month=4, concurrent=5, admin=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[keys.ada]", "keys.ada: needs sha256"),
        ("[keys.ada]\nsha256 = 'abc'", "64 lower-case"),
        ("[keys.ada]\nsha256 = '{d}'\nspeed = 3", "unknown key 'speed'; known are admin"),
        ("[keys.ada]\nsha256 = '{d}'\nname = 'x'", "unknown key 'name'"),
        ("[keys.ada]\nsha256 = '{d}'\npriority = 'high'", "keys.ada.priority: must be of type int"),
        ("[keys.ada]\nsha256 = '{d}'\nadmin = 1", "keys.ada.admin: must be of type bool"),
        ("[keys.ada]\nsha256 = '{d}'\nconcurrent = true", "must be of type int"),
        ("[keys.ada]\nsha256 = '{d}'\ntokens_per_day = -1", "out of range"),
        ("[keys.ada]\nsha256 = '{d}'\n[keys.bob]\nsha256 = '{d}'", "keys.bob: has the same key as ada"),
        ("[key.ada]\nsha256 = '{d}'", "expected tables"),
        ("keys = 3", "expected tables"),
        ("[keys", "not a TOML file"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, said):
    path = written(tmp_path, text.replace("{d}", "0" * 64))
    with pytest.raises(ConfigError, match=said) as raised:
        read_keys(path)
    assert str(path) in str(raised.value)


def test_plain_keys():
    keys = Keys(plain_keys(["first-key", "second-key"]))
    first, second = keys.find("first-key"), keys.find("second-key")
    assert first and second and first.tenant != second.tenant
    assert "first" not in first.name
    with pytest.raises(ConfigError, match="key 2 has 3 characters"):
        plain_keys(["long enough", "abc"])


def test_any_bytes_may_be_presented():
    keys = Keys(plain_keys(["first-key"]))
    assert keys.find("\udcff\x00é") is None
