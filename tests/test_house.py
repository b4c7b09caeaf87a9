"""The rules of the house: who may import whom, who may name a vendor, what stays quick to import."""

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/homegrown"
MODULES = sorted(PACKAGE.rglob("*.py"))
CHECK_VENDOR = ROOT / "tools/check_vendor.py"

GROUND = {
    "config": set(),
    "energy": set(),
    "host": {"config"},
    "device": {"config", "energy", "host"},
    "ledger": {"config"},
    "report": {"config", "ledger"},
    "plan": {"config", "ledger", "report"},
}
"""Rooms of the ground floor, and all that each may import."""
FLOORS = [
    {"ops"},
    {"model", "tokenizer"},
    {"data", "hub", "optim", "generate"},
    {"parallel"},
    {"train", "serve"},
    {"bench"},
    {"supervise"},
    {"cli"},
]
"""Upper floors, lowest first: a room imports from any floor below its own."""


def allowed(room: str) -> set[str]:
    if room in GROUND:
        return GROUND[room]
    below = set(GROUND)
    for floor in FLOORS:
        if room in floor:
            return below
        below |= floor
    raise AssertionError(f"room {room!r} stands on no floor: add it to the table in {Path(__file__).name}")


def room_of(path: Path) -> str:
    """First name below the package; the package's own files are the front door and belong to no room."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything of this package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("homegrown."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "homegrown":
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def label(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path)], ids=label)
def test_imports_go_down(path):
    room = room_of(path)
    for line, name in imports(path):
        target = name.split(".")[1]
        if target == "__version__":
            continue
        assert target == room or target in allowed(room), f"{label(path)}:{line}: {room} must not import {name}"


def test_no_relative_imports():
    relative = [
        f"{label(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == [], "the rules above read absolute imports"


def test_rooms_form_no_cycle():
    graph = defaultdict(set)
    for path in MODULES:
        room = room_of(path)
        graph[room] |= {name.split(".")[1] for _, name in imports(path)} - {room, "__version__"}
    graph.pop("", None)
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", [path for path in MODULES if path.read_text().strip()], ids=label)
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{label(path)} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize(
    "code",
    [
        "import homegrown",
        "import homegrown.config",
        "from homegrown.cli.main import main; main(['--help'])",
        "from homegrown.cli.main import main; main(['--version'])",
        "from homegrown.cli.main import main; main(['no-such-command'])",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code):
    code += "; import sys; sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_vendor(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK_VENDOR, folder], capture_output=True, text=True, check=False)


class TestVendorCheck:
    def test_package_names_no_vendor(self):
        done = check_vendor(PACKAGE)
        assert done.returncode == 0, done.stdout

    def test_device_file_is_checked_nowhere_else(self, tmp_path):
        (tmp_path / "device.py").write_text('x = "cuda"\n')
        assert check_vendor(tmp_path).returncode == 0
        (tmp_path / "room").mkdir()
        (tmp_path / "room/device.py").write_text('x = "cuda"\n')
        assert check_vendor(tmp_path).returncode == 1

    def test_facts_may_name_vendors_but_code_may_not(self, tmp_path):
        (tmp_path / "plan/data").mkdir(parents=True)
        (tmp_path / "plan/data/chips.toml").write_text('vendor = "cuda"\n')
        assert check_vendor(tmp_path).returncode == 0
        (tmp_path / "plan/data/__init__.py").write_text('x = "cuda"\n')
        assert check_vendor(tmp_path).returncode == 1

    @pytest.mark.parametrize(
        ("line", "word"),
        [
            ('if x.device.type == "cuda":', "cuda"),
            ("use_cuda = True", "cuda"),
            ("# as CuDNN does", "CuDNN"),
            ("torch.npu.synchronize()", "npu"),
            ("npu_count = 1", "npu"),
            ("'xpu:0'", "xpu"),
            ("for GPUs by AMD and Intel", "AMD"),
            ('backend="gloo"', "gloo"),
            ("On NPUs it is slower", "NPUs"),
        ],
    )
    def test_finds(self, tmp_path, line, word):
        path = tmp_path / "data.toml"
        path.write_text(f"first\n{line}\n")
        done = check_vendor(tmp_path)
        assert done.returncode == 1
        assert done.stdout.startswith(f"{path}:2:{line.index(word) + 1}: {word}: {line}\n")

    def test_finds_file_names(self, tmp_path):
        (tmp_path / "hip_kernels.py").write_text("")
        assert check_vendor(tmp_path).stdout.startswith(f"{tmp_path / 'hip_kernels.py'}:0:1: hip: hip_kernels.py\n")

    @pytest.mark.parametrize(
        "line", ["in ascending order", "json.dumps(x)", "ship, chip, input", "intelligence", "cpu"]
    )
    def test_leaves_words_alone(self, tmp_path, line):
        (tmp_path / "page.html").write_text(line)
        assert check_vendor(tmp_path).returncode == 0

    def test_leaves_binary_files_alone(self, tmp_path):
        (tmp_path / "weights.bin").write_bytes(b"\xff\xfecuda")
        assert check_vendor(tmp_path).returncode == 0

    def test_no_such_folder(self, tmp_path):
        assert check_vendor(tmp_path / "none").returncode == 2
