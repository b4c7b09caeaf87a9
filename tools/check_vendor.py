"""Checks that no vendor, backend or device type is named in the package outside its device file
and the planner's facts.

    python tools/check_vendor.py [FOLDER]

Prints `file:line:column: word: the line` for each one found and exits with 1 if there are any. Comments, docstrings,
data files and file names count. A name that is no English word is found inside longer words too (`use_cuda`,
`cudnn`); a short or ambiguous one only where no letter touches it (`npu_count`, not `input`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ALLOWED = {"device.py"}
"""Files, relative to the folder, that may name whom they like."""
FACTS = "plan/data"
"""A folder of published facts (chips, clusters, runs, claims), which no code of the package is."""

ANYWHERE = (
    "ascendcl", "cambricon", "cncl", "cublas", "cuda", "cudnn", "gcnarch", "habana", "hccl", "huawei", "mthreads",
    "nccl", "nvidia", "nvlink", "nvml", "oneccl", "rccl", "rocm", "torch_npu", "xccl",
)  # fmt: skip
ALONE = (
    "amd", "ascend", "cann", "epyc", "gaudi", "gloo", "hip", "hpu", "intel", "mccl", "mlu", "mps", "musa", "npu",
    "ryzen", "tpu", "xeon", "xpu",
)  # fmt: skip

_NAMES = re.compile(rf"{'|'.join(ANYWHERE)}|(?<![a-z])(?:{'|'.join(ALONE)})s?(?![a-z])", re.IGNORECASE)


class Finding(NamedTuple):
    """A name where it must not be; line 0 is the file's own name."""

    path: Path
    line: int
    column: int
    word: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.word}: {self.text.strip()}"


def findings(folder: Path) -> Iterator[Finding]:
    """Every name found in the text files under `folder`, file by file."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_dir() or "__pycache__" in relative.parts or str(relative) in ALLOWED:
            continue
        if relative.is_relative_to(FACTS) and path.suffix != ".py":
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # not text
            text = ""
        for number, line in enumerate([str(relative), *text.splitlines()]):
            for match in _NAMES.finditer(line):
                yield Finding(path, number, match.start() + 1, match.group(), line)


def main(argv: list[str]) -> int:
    """Check the folder named in `argv`, or the package's own."""
    folder = Path(argv[0]) if argv else Path(__file__).parents[1] / "src/homegrown"
    if not folder.is_dir():
        print(f"{folder}: no such folder", file=sys.stderr)
        return 2
    found = list(findings(folder))
    for finding in found:
        print(finding)
    print(f"vendor check: {len(found)} found" if found else "vendor check: none found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
