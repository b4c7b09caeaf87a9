"""Compiling the C sources: where they go, and what is said where they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homegrown.ops.native import NativeError, build

COMPILER = build._compiler() if build.shutil.which(os.environ.get("CC") or "cc") else ""
needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache folder of the test's own, and no library yet. Less is optimised: only what is made matters here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(build.SWITCH, raising=False)
    monkeypatch.setattr(build, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in build.FLAGS))
    build.library.cache_clear()
    yield
    build.library.cache_clear()


def made(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"), key=str)


@needs_compiler
def test_it_is_compiled_once(tmp_path: Path) -> None:
    first = build.library()
    assert first.native_most_rows() == 64
    (file,) = (tmp_path / "cache" / "homegrown" / "native").iterdir()
    written = file.stat().st_mtime_ns
    build.library.cache_clear()
    build.library()
    assert file.stat().st_mtime_ns == written


@needs_compiler
def test_two_processes_at_once(tmp_path: Path) -> None:
    code = "from homegrown.ops.native import build; print(build.library().native_most_rows())"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["64\n", "64\n"]
    assert len(list((tmp_path / "cache" / "homegrown" / "native").iterdir())) == 1, "nothing temporary stays"


@needs_compiler
def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert build.library().native_most_rows() == 64


@needs_compiler
def test_a_compiler_that_does_not_know_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "TUNED", ("-march=no-such-processor", ""))
    assert build.library().native_most_rows() == 64


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.SWITCH, "0")
    with pytest.raises(NativeError, match="turned off by HOMEGROWN_NATIVE=0"):
        build.library()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NativeError, match="there is no C compiler 'no-such-compiler'"):
        build.library()
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(NativeError, match="failed: out of order"):
        build.library()
