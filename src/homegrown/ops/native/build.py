"""Compiling and loading the C sources: in seconds, at first use, into the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from homegrown.ops.native.structures import declare, sizes

FOLDER = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-Wno-psabi")
TUNED = ("-march=native", "")
"""Tried in turn: some compilers do not know their own processor."""
SECONDS = 120
"""After which a compiler is given up."""
SWITCH = "HOMEGROWN_NATIVE"


class NativeError(RuntimeError):
    """The sources cannot be compiled or loaded here; the message says why."""


@cache
def library() -> ctypes.CDLL:
    """The compiled sources, with their functions' types declared.

    Raises:
        NativeError: it is turned off, there is no working compiler, or what it made cannot be loaded.
    """
    if os.environ.get(SWITCH, "1") == "0":
        raise NativeError(f"turned off by {SWITCH}=0")
    compiler = _compiler()
    try:
        return _load(compiler, _cache_folder())
    except OSError:  # the cache cannot be written: what is compiled lives as long as this process needs the file
        with tempfile.TemporaryDirectory(prefix="homegrown-") as folder:
            try:
                return _load(compiler, Path(folder))
            except OSError as error:
                raise NativeError(f"what {compiler} made cannot be written or loaded: {error}") from None


def _compiler() -> str:
    wanted = os.environ.get("CC") or "cc"
    path = shutil.which(wanted)
    if path is None:
        raise NativeError(f"there is no C compiler {wanted!r}")
    return path


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "homegrown" / "native"


def _load(compiler: str, folder: Path) -> ctypes.CDLL:
    """The library of a folder, made if it is not there yet."""
    path = folder / f"{_name(compiler)}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _compile(compiler, path)
    loaded = declare(ctypes.CDLL(str(path)))
    if sizes(loaded) != sizes():
        raise NativeError(f"structures are laid out differently in C {sizes(loaded)} and here {sizes()}")
    return loaded


def _name(compiler: str) -> str:
    """Of everything that the compiled code depends on."""
    digest = hashlib.sha256()
    for source in sorted(FOLDER.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    digest.update("\0".join((*FLAGS, *TUNED, _run([compiler, "--version"]), _processor())).encode())
    return digest.hexdigest()[:32]


def _processor() -> str:
    """What `-march=native` looks at: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part", "isa"))]
    return "\n".join([platform.machine(), platform.processor(), *told])


def _compile(compiler: str, path: Path) -> None:
    """Compile under a name of this process's own, then rename: another process may be doing the same."""
    sources = [str(source) for source in sorted(FOLDER.glob("*.c"))]
    handle, made = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        for number, tuned in enumerate(TUNED, start=1):
            flags = [flag for flag in (*FLAGS, tuned) if flag]
            try:
                _run([compiler, *flags, "-o", made, *sources, "-lm"])
                break
            except NativeError:
                if number == len(TUNED):
                    raise
        Path(made).replace(path)
    finally:
        Path(made).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"{command[0]} cannot be run: {error}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise NativeError(f"{command[0]} failed: {said[-1] if said else done.returncode}")
    return done.stdout
