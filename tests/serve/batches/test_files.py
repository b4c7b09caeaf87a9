"""The directory of files."""

import io
from types import SimpleNamespace

import pytest

from homegrown.config import UserError
from homegrown.serve.batches.files import Files, new_id
from homegrown.serve.errors import ApiError


def create(files, data=b"hello", tenant="ada", lasts=0, name="a.jsonl"):
    return files.create(tenant, name, "batch", io.BytesIO(data), len(data), lasts)


def test_a_file_survives_a_restart(tmp_path):
    file = create(Files(tmp_path, 100))
    again = Files(tmp_path, 100)
    assert again.get("ada", file.id) == file
    assert again.path(file).read_bytes() == b"hello"
    assert again.total == 5


def test_files_are_their_tenants(tmp_path):
    files = Files(tmp_path, 100)
    file = create(files)
    assert files.of("bob") == []
    with pytest.raises(ApiError, match="no such file"):
        files.get("bob", file.id)


def test_names_are_never_paths(tmp_path):
    files = Files(tmp_path / "files", 100)
    create(files, name="../../evil")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files"]
    for name in ("../files", "file-" + "0" * 23, "/etc/passwd", ""):
        with pytest.raises(ApiError):
            files.get("ada", name)
        with pytest.raises(ValueError, match="is no file's id"):
            files.adopt(name, "ada", "x", "batch_output", tmp_path / "x")


def test_room_is_bounded(tmp_path):
    files = Files(tmp_path, 12)
    first = create(files)
    create(files)
    with pytest.raises(ApiError, match="there is no room"):
        create(files)
    files.delete(first)
    create(files)


def test_expiry(tmp_path):
    world = SimpleNamespace(now=1000.0)
    files = Files(tmp_path, 100, lambda: world.now)
    file = create(files, lasts=60)
    assert file.expires_at == 1060
    world.now = 1059
    assert files.of("ada") == [file]
    world.now = 1060
    assert files.of("ada") == []
    assert list(tmp_path.iterdir()) == []


def test_what_was_cut_off_is_removed(tmp_path):
    (tmp_path / "file-abc.data").write_bytes(b"half")
    (tmp_path / ".x.tmp").write_bytes(b"half")
    Files(tmp_path, 100)
    assert list(tmp_path.iterdir()) == []


def test_adopting_twice(tmp_path):
    files, path, name = Files(tmp_path / "files", 100), tmp_path / "results", new_id()
    path.write_bytes(b"result")
    files.adopt(name, "ada", "r.jsonl", "batch_output", path)
    files.adopt(name, "ada", "r.jsonl", "batch_output", path)
    assert files.path(files.get("ada", name)).read_bytes() == b"result"


def test_adopting_goes_on_where_it_was_cut_off(tmp_path):
    """The data had been moved, its facts not yet written, when the process died."""
    folder, path, name = tmp_path / "files", tmp_path / "results", new_id()
    path.write_bytes(b"result")
    Files(folder, 100).adopt(name, "ada", "r.jsonl", "batch_output", path)
    (folder / f"{name}.json").unlink()
    files = Files(folder, 100, keep={name})
    files.adopt(name, "ada", "r.jsonl", "batch_output", path)
    assert files.path(files.get("ada", name)).read_bytes() == b"result"


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "file-x.json").write_text("{")
    with pytest.raises(UserError, match=r"file-x.json: not the facts of a file"):
        Files(tmp_path, 100)
