"""A made-up accelerator, to prove that nothing in the package assumes a vendor: `abacus` devices, `beads` collectives.

`csrc/` is its driver, compiled once for each version of PyTorch (half a minute) into a temporary folder; `plugin/` is
what its vendor would publish: a distribution with PyTorch's `torch.backends` entry point. A process started with
`environment()`, or within `present()`, therefore has eight such devices from `import torch` on, whatever it runs.
`activate()` does the same within a process for good, so tests call it in processes of their own only.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

DEVICE, BACKEND, COUNT = "abacus", "beads", 8

_SOURCES = Path(__file__).parent / "csrc"
_PLUGIN = Path(__file__).parent / "plugin"
_LIBRARY = "ABACUS_LIBRARY"


def build() -> Path:
    """The compiled library, from the cache if it was built before.

    Without a C++ compiler the test is skipped, or fails where CI=true promises one.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        reason = "no C++ compiler on this machine (looked for g++ and clang++; CXX names another)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    files = sorted(_SOURCES.iterdir())
    key = hashlib.sha256(f"{torch.__version__} {sys.version} {compiler}".encode())
    for file in files:
        key.update(file.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"homegrown-madeup-{os.getuid()}-{key.hexdigest()[:16]}"
    library = folder / f"_abacus{sysconfig.get_config_var('EXT_SUFFIX')}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    if not library.exists():
        _compile(compiler, [file for file in files if file.suffix == ".cpp"], library)
    return library


def environment() -> dict[str, str]:
    """Variables of a process that is to have the device, beside those of this one."""
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_PLUGIN))))
    return {"PYTHONPATH": path, _LIBRARY: str(build())}


@contextmanager
def present() -> Iterator[None]:
    """Processes started within the block have the device, those of `multiprocessing` too."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", _LIBRARY)}
    os.environ.update(environment())
    sys.path.append(str(_PLUGIN))  # handed on to spawned processes before they import torch
    try:
        yield
    finally:
        sys.path.remove(str(_PLUGIN))
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def activate() -> None:
    """Give this process the device, if it has not had it since `import torch`. There is no way back."""
    if not hasattr(torch, DEVICE):
        os.environ.setdefault(_LIBRARY, str(build()))
        sys.path.append(str(_PLUGIN))
        import abacus

        abacus.load()


def _compile(compiler: str, sources: list[Path], library: Path) -> None:
    command = shlex.split(compiler)
    includes = [f"-isystem{path}" for path in (*cpp_extension.include_paths(), sysconfig.get_paths()["include"])]
    folders = [part for folder in cpp_extension.library_paths() for part in (f"-L{folder}", f"-Wl,-rpath,{folder}")]
    libraries = ["-Wl,--no-as-needed", "-ltorch_cpu", "-ltorch_python", "-ltorch", "-lc10"]
    with tempfile.TemporaryDirectory(dir=library.parent) as work:

        def compiled(source: Path) -> str:
            made = f"{work}/{source.stem}.o"
            _run([*command, "-std=c++20", "-O1", "-fPIC", *includes, "-c", str(source), "-o", made])
            return made

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compiled, sources))
        linked = Path(work) / library.name
        _run([*command, "-shared", *objects, *folders, *libraries, "-o", str(linked)])
        linked.replace(library)  # at once: another process may be looking for it


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr[-4000:]}")
